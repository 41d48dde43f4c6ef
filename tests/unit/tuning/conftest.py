"""The model that was taught to refuse is made once for all."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def refuser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.tuning.tiny import make_refuser  # needs torch: where it is missing, tests are skipped

    return make_refuser(tmp_path_factory.mktemp("refuser") / "m")
