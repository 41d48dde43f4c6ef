"""What every test gets: an own home, so that no test reads or writes the keys of whoever runs it."""

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background of a shell that ignores Ctrl-C: what we start would inherit that, and the tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder of its own for each test, in this process and in those it starts."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DUTCHDOOR_CONFIG", str(home / "config"))
    monkeypatch.delenv("DUTCHDOOR_DATA", raising=False)
    return home
