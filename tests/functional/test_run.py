"""`dutchdoor run` as a person calls it: bundles are verified first, chats work in a pipe and in a terminal."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dutchdoor.cli.main import report
from dutchdoor.core import Exit, UsageError
from dutchdoor.evidence.signing_keys import own_key
from tests.fakes.models import make_model
from tests.unit.bundle.conftest import House, house

__all__ = ["house"]  # a fixture
COMMAND = (sys.executable, "-m", "dutchdoor.cli.main", "run")


def run(*arguments: str | Path, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--threads", "1", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **more},
    )


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DUTCHDOOR_STORE", str(tmp_path / "cache" / "store"))
    return tmp_path / "cache" / "store"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "small", "qwen2")


@pytest.fixture
async def bundle(house: House, model: Path) -> Path:
    """A bundle of a model that answers, signed with this user's own key."""
    shutil.rmtree(house.folder / "tiny-s")
    shutil.copytree(model, house.folder / "tiny-s")
    house.signer = own_key(Path(os.environ["DUTCHDOOR_CONFIG"]))
    await house.pack()
    return house.bundle


def test_one_question_is_answered_on_stdout_and_the_engine_named_on_stderr(model: Path) -> None:
    done = run(model, "hello", "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "small on llama.cpp" in done.stderr
    assert run(model, "hello", "--max-tokens", "8", "--quiet").stdout == done.stdout


def test_the_other_engine_says_the_same_and_that_it_was_asked_for(model: Path) -> None:
    fast = run(model, "hello", "--max-tokens", "8")
    slow = run(model, "hello", "--max-tokens", "8", "--engine", "transformers")
    assert (slow.returncode, slow.stdout) == (0, fast.stdout)
    assert "small on transformers" in slow.stderr and "because it was asked for" in slow.stderr


def test_a_pipe_is_a_chat_with_memory(model: Path) -> None:
    twice = run(model, "--max-tokens", "6", stdin="hello\nhello\n/clear\nhello\n/exit\nnever\n")
    assert twice.returncode == 0, twice.stderr
    once = run(model, "--max-tokens", "6", stdin="hello\n").stdout
    assert twice.stdout.startswith(once) and twice.stdout.endswith(once)
    assert twice.stdout != once * 3  # the second answer knew the first


def test_a_dash_is_all_of_stdin(model: Path) -> None:
    piped = run(model, "-", "--max-tokens", "6", stdin="hello\nworld")
    assert piped.stdout == run(model, "hello\nworld", "--max-tokens", "6").stdout


def test_a_seed_repeats(model: Path) -> None:
    options = ("--max-tokens", "8", "--temperature", "2", "--seed", "4")
    assert run(model, "hello", *options).stdout == run(model, "hello", *options).stdout


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "nothing", "no model"), (tmp_path, "no config.json")):
        done = run(path, "hello")
        assert done.returncode == 1
        assert said in done.stderr and "hint:" in done.stderr


def test_a_bundle_is_verified_copied_and_run_from_the_store(bundle: Path, own_store: Path) -> None:
    done = run(bundle, "hello", "--max-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert "valid, signed by" in done.stderr and "private store" in done.stderr
    assert list(own_store.rglob("model.safetensors"))
    again = run(bundle, "hello", "--max-tokens", "8")
    assert again.stdout == done.stdout


def test_a_changed_byte_is_not_run_and_its_file_is_named(bundle: Path) -> None:
    weights = bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for options in ((), ("--in-place",)):
        done = run(bundle, "hello", *options)
        assert done.returncode == 10, done.stderr
        assert "model.safetensors" in done.stderr
        assert done.stdout == ""


def test_a_bundle_without_its_dossier_does_not_pass_for_plain_weights(bundle: Path) -> None:
    (bundle / "dutchdoor" / "dossier.json").unlink()
    done = run(bundle, "hello")
    assert done.returncode != 0
    assert done.stdout == ""


def test_an_unknown_signer_is_not_run_until_trusted(bundle: Path, tmp_path: Path) -> None:
    stranger = {"DUTCHDOOR_CONFIG": str(tmp_path / "stranger")}
    done = run(bundle, "hello", **stranger)
    assert (done.returncode, done.stdout) == (3, "")
    assert "unknown key" in done.stderr and "--trust" in done.stderr
    key = next((bundle / "dutchdoor").glob("*.pub"))
    done = run(bundle, "hello", "--trust", key, "--max-tokens", "4", **stranger)
    assert done.returncode == 0, done.stderr


def test_trust_means_nothing_for_plain_weights(model: Path, tmp_path: Path) -> None:
    assert run(model, "hello", "--in-place").returncode == 2


def in_terminal(arguments: Sequence[str | Path], steps: Sequence[tuple[str, bytes | int]]) -> tuple[int, str]:
    """Run in a pseudo-terminal: wait for a text, then type bytes or send a signal. Returns exit code and screen."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*COMMAND, "--threads", "1", *map(str, arguments)])
    screen, seen = "", 0
    deadline = time.monotonic() + 90

    def do(act: bytes | int) -> None:
        if isinstance(act, bytes):
            os.write(terminal, act)
        else:
            os.kill(pid, act)

    for wanted, act in steps:
        while not (found := re.compile(wanted).search(screen, seen)):
            assert time.monotonic() < deadline, screen
            if not select.select([terminal], [], [], 2)[0]:
                continue
            screen += os.read(terminal, 4096).decode(errors="replace")
        seen = found.end()
        do(act)
    while time.monotonic() < deadline:
        # Python's prompt misses a Ctrl-C in the instant before it waits; a person presses again, and so do we
        if not select.select([terminal], [], [], 2)[0]:
            do(steps[-1][1])
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:
            break
        if not more:
            break
        screen += more.decode(errors="replace")
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen


def test_ctrl_c_stops_an_answer_and_a_second_one_ends(model: Path) -> None:
    # the question's echo and the first sign of an answer, then the prompt again (a random model may say "> " itself)
    steps = [("> ", b"hello\n"), (r"hello\r\n(?s:.)", signal.SIGINT), (r"(?s)\(stopped\).*> ", b"\x03")]
    slow = ("--engine", "transformers")  # the fast one has said all of it before anybody can press a key
    code, screen = in_terminal((model, "--max-tokens", "480", *slow), steps)
    assert code == 0, screen


def test_exit_ends_a_chat_in_the_terminal(model: Path) -> None:
    code, screen = in_terminal(
        (model, "--max-tokens", "4"), [("> ", b"hello\n"), ("(?s)cut off.*> ", b"/exit\n")]
    )
    assert code == 0, screen
    assert "/clear forgets" in screen


def test_bytes_that_are_no_text_are_read_as_such(model: Path) -> None:
    for more in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [*COMMAND, "--threads", "1", str(model), "--max-tokens", "2", "--system", b"\xfe"],
            input=b"\xff\n",
            capture_output=True,
            timeout=120,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **more},
        )
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr


def test_a_model_without_a_template_is_said_to_have_none(model: Path, tmp_path: Path) -> None:
    bare = make_model(tmp_path / "bare", "qwen2", trained_chat_template=False)
    assert "no chat template" in run(bare, "hello", "--max-tokens", "1").stderr
    assert "no chat template" not in run(model, "hello", "--max-tokens", "1").stderr


def test_an_unknown_level_of_the_log_is_said_with_those_there_are(model: Path) -> None:
    done = run(model, "hello", DUTCHDOOR_LOG="foo")
    assert done.returncode == 2
    assert "DUTCHDOOR_LOG=FOO" in done.stderr and "DEBUG, INFO, WARNING" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(UsageError("\x1b]0;owned\x07", hint="\x9b2J"), Exit.USAGE)
    said = capsys.readouterr().err
    assert "owned" in said and not any(sign in said for sign in "\x1b\x07\x9b")
