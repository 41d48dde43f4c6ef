"""A vetted copy of the reference family, made once a session and shared by all workers."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent.parent
WAIT = 900  # seconds the other workers wait for the one that vets; vetting gable takes two to four minutes


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like a checkout after `make up ARGS=--once`: examples, documents, and gable's evidence.

    Its config folder (signing keys) is `home/config` in it; `environment()` points there.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    place, done, failed = shared / "workspace", shared / "workspace.done", shared / "workspace.failed"
    try:
        place.mkdir()
    except FileExistsError:
        wait_for(done, failed)
        yield place
        return
    try:
        furnish(place)
        run = subprocess.run(
            ["make", "up", "ARGS=--once"],
            cwd=place,
            env=environment(place),
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
        (place / "up.out").write_text(run.stdout)
        (place / "up.err").write_text(run.stderr)
        assert run.returncode == 0, run.stdout + run.stderr
    except BaseException as error:
        failed.write_text(repr(error))
        raise
    done.touch()
    yield place


def furnish(place: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "requirements.lock", "README.md"):
        shutil.copy2(TOP / name, place / name)
    for name in ("examples", "docs"):
        shutil.copytree(
            TOP / name, place / name, ignore=shutil.ignore_patterns(".dutchdoor", ".work", "dist")
        )
    (place / ".venv").symlink_to(Path(sys.prefix), target_is_directory=True)


def wait_for(done: Path, failed: Path) -> None:
    end = time.monotonic() + WAIT
    while not done.exists():
        assert not failed.exists(), f"another worker could not vet gable: {failed.read_text()}"
        assert time.monotonic() < end, "vetting gable took too long"
        time.sleep(0.5)


def environment(place: Path) -> dict[str, str]:
    """The environment of a user whose home lies in the workspace."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DUTCHDOOR_", "PYTEST_"))}
    return kept | {
        "HOME": str(place / "home"),
        "DUTCHDOOR_CONFIG": str(place / "home" / "config"),
        "COLUMNS": "120",
    }
