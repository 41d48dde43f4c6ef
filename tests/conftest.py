"""What every test gets: an own home, so that no test reads or writes the keys of whoever runs it."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder of its own for each test, in this process and in those it starts."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DUTCHDOOR_CONFIG", str(home / "config"))
    monkeypatch.delenv("DUTCHDOOR_DATA", raising=False)
    return home
