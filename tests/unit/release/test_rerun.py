"""Signed cases measured again: agrees, does not, and can't tell; each with a planted fault beside it."""

import asyncio
import json
from pathlib import Path

import pytest

from dutchdoor.bundle.release import decide_and_pack
from dutchdoor.bundle.verify import Report, verify
from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines.interface import Engine
from dutchdoor.evidence.signing_keys import new_key
from dutchdoor.release.rerun import Rerun, needed, rerun
from dutchdoor.stats import clopper_pearson_upper
from tests.fakes.engines import ScriptedEngine
from tests.fakes.families import FakeLaboratory, answers, load, write_family
from tests.fakes.vetted import vetted


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    return asyncio.run(_pack(tmp_path_factory.mktemp("rerun")))


async def _pack(folder: Path) -> tuple[Path, Report]:
    key = new_key()
    manifest = write_family(folder)
    for name in ("small", "large"):
        (folder / name / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
        (folder / name / "tokenizer.json").write_text(json.dumps({"name": name}))
    await vetted(manifest, key)
    loaded, policies = load(manifest)
    packing = await decide_and_pack(
        loaded, policies, folder / ".dutchdoor", folder / "dist", key, [key.public]
    )
    return folder, await verify(packing.paths[0], [key.public])


class Other(FakeLaboratory):
    """The weights answer as somebody else's would, or not at all."""

    def __init__(self, folder: Path, who: str, error: bool = False) -> None:
        super().__init__(folder)
        self.who, self.error = who, error

    async def open(self, path: Path, threads: int) -> Engine:
        if self.error:
            raise EngineError("no memory")
        engine = ScriptedEngine(answers(self.who, attacked=False))
        self.engines.append(engine)
        return engine


def measured(packed: tuple[Path, Report], suite: str, n: int, who: str = "small", seed: int = 0) -> Rerun:
    folder, report = packed
    return asyncio.run(rerun(report, folder / suite, n, Other(folder, who), seed=seed))


def test_the_same_weights_agree(packed: tuple[Path, Report]) -> None:
    found = measured(packed, "sums.jsonl", 80)
    assert (found.verdict, found.n, found.differ) == ("agrees", 80, 0)
    assert found.upper == clopper_pearson_upper(0, 80)
    assert found.constant == 0.6


def test_other_weights_do_not_agree_and_the_cases_are_named(packed: tuple[Path, Report]) -> None:
    found = measured(packed, "sums.jsonl", 80, who="large")
    assert found.verdict == "differs"
    assert found.lower > 0.05
    assert len(found.ids) == found.differ > 10


def test_too_few_cases_tell_nothing_and_it_is_said_how_many_would(packed: tuple[Path, Report]) -> None:
    assert needed(0.05) == 59  # 1 − 0.05^(1/59) = 4.95 %
    assert measured(packed, "sums.jsonl", 58).verdict == "cannot-tell"
    assert "at least 59" in measured(packed, "sums.jsonl", 58).because
    assert measured(packed, "sums.jsonl", 59).verdict == "agrees"


def test_the_seed_draws_the_cases(packed: tuple[Path, Report]) -> None:
    first, again, other = (measured(packed, "sums.jsonl", 60, who="large", seed=seed) for seed in (1, 1, 2))
    assert first.ids == again.ids != other.ids


def test_a_suite_of_another_digest_is_refused(packed: tuple[Path, Report], tmp_path: Path) -> None:
    folder, report = packed
    changed = tmp_path / "sums.jsonl"
    changed.write_text((folder / "sums.jsonl").read_text().replace("add 7", "add 8", 1))
    found = asyncio.run(rerun(report, changed, 80, Other(folder, "small")))
    assert (found.verdict, found.n) == ("cannot-tell", 0)


def test_outcomes_that_are_all_alike_are_told_to_show_little(packed: tuple[Path, Report]) -> None:
    assert measured(packed, "hazard.jsonl", 60).constant == 1.0


def test_weights_that_cannot_be_loaded_are_an_error_and_no_agreement(packed: tuple[Path, Report]) -> None:
    folder, report = packed
    with pytest.raises(EngineError):
        asyncio.run(rerun(report, folder / "sums.jsonl", 60, Other(folder, "small", error=True)))
    with pytest.raises(UsageError):
        asyncio.run(rerun(report, folder / "sums.jsonl", 0, Other(folder, "small")))
