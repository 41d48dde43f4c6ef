"""A PostgreSQL server of our own: in a temporary folder, on a socket of its own, gone at the end of the tests.

Real, and with its durability on. Each ledger gets a schema of its own, which the URL names.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSIONS = Path("/usr/lib/postgresql")  # where Debian and Ubuntu keep the server's programs
USER = "postgres"  # the server refuses to run as root


class Postgres:
    """A running server."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs

    def url(self, schema: str | None = None) -> str:
        """A URL of an empty schema, or of one that `url` made before."""
        if schema is None:
            schema = f"s{secrets.token_hex(6)}"
            self.sql(f"CREATE SCHEMA {schema}")
        options = urllib.parse.quote(f"-csearch_path={schema}")
        return f"postgresql://{USER}@/{USER}?host={urllib.parse.quote(str(self.folder), safe='')}&options={options}"

    def sql(self, text: str) -> str:
        """Run SQL as the server's owner."""
        return self._run("psql", "-h", str(self.folder), "-U", USER, "-qAtc", text)

    def start(self) -> None:
        # no TCP at all: the socket's folder is private to the tests
        options = f"-c listen_addresses='' -k {self.folder} -c max_connections=60"
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-o", options, "start"
        )

    def stop(self, how: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", how, "stop")

    def make(self) -> None:
        self._run(
            "initdb", "-D", f"{self.folder}/data", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"
        )

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        done = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout


def programs() -> Path:
    """Where the server's programs are; a test that needs them fails where they are missing."""
    found = sorted(VERSIONS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    if (initdb := shutil.which("initdb")) is not None:
        return Path(initdb).parent
    pytest.fail("PostgreSQL's server is not installed: apt-get install postgresql")


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server for as long as the block runs."""
    # not under pytest's folder, whose parents only the one who runs the tests can enter, and short for a socket
    folder = Path(tempfile.mkdtemp(prefix="dd-pg-", dir="/tmp"))
    server = Postgres(folder, programs())
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process."""
    with running() as server:
        yield server
