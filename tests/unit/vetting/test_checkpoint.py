"""What was finished is still there after a kill, and nothing that was not."""

from pathlib import Path

import pytest

from dutchdoor.evidence.record import Outcome
from dutchdoor.vetting.checkpoint import Checkpoint


def done(at: int) -> Outcome:
    return Outcome(id=f"case {at}", correct=True, refused=False)


def ids(checkpoint: Checkpoint) -> list[str]:
    return [outcome.id for outcome in checkpoint.outcomes()]


def test_outcomes_come_back_in_the_suite_s_order(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c", "run", 9) as checkpoint:
        for at in (5, 0, 8, 2):
            checkpoint.add(at, done(at), empty=at == 8)
        assert ids(checkpoint) == ["case 0", "case 2", "case 5", "case 8"]
    with Checkpoint(tmp_path / "c", "run", 9) as checkpoint:
        assert ids(checkpoint) == ["case 0", "case 2", "case 5", "case 8"]
        assert [line.empty for line in checkpoint.lines()] == [False, False, False, True]
        assert [at for at in range(9) if checkpoint.has(at)] == [0, 2, 5, 8]


def test_what_was_missing_counts_in_its_own_run_and_is_asked_again_by_the_next(tmp_path: Path) -> None:
    gone = Outcome(id="case 1", correct=None, refused=None, error="EngineError")
    with Checkpoint(tmp_path / "c", "run", 3) as checkpoint:
        checkpoint.add(0, done(0))
        checkpoint.add(1, gone)
        assert ids(checkpoint) == ["case 0", "case 1"]
        assert checkpoint.finished == 1
    with Checkpoint(tmp_path / "c", "run", 3) as checkpoint:
        assert ids(checkpoint) == ["case 0"]
        checkpoint.add(1, done(1))
    with Checkpoint(tmp_path / "c", "run", 3) as checkpoint:
        assert ids(checkpoint) == ["case 0", "case 1"]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "c"
    with Checkpoint(path, "run", 9) as checkpoint:
        for at in range(5):
            checkpoint.add(at, done(at))
    path.write_bytes(path.read_bytes()[:-cut])
    with Checkpoint(path, "run", 9) as checkpoint:
        assert ids(checkpoint) == [f"case {at}" for at in range(4)]
        checkpoint.add(7, done(7))
    with Checkpoint(path, "run", 9) as checkpoint:
        assert ids(checkpoint) == ["case 0", "case 1", "case 2", "case 3", "case 7"]


def test_a_line_of_a_case_that_the_suite_has_not_ends_what_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with Checkpoint(path, "run", 9) as checkpoint:
        checkpoint.add(0, done(0))
        checkpoint.add(1, done(1))
    path.write_bytes(path.read_bytes().replace(b"[1,", b"[9,"))
    with Checkpoint(path, "run", 9) as checkpoint:
        assert ids(checkpoint) == ["case 0"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b'{"kind":"dutchdoor/checkpoint@2","run":"other","cases":9}\n[0,{}]\n',
        b'{"kind":"dutchdoor/checkpoint@2","run":"run","cases":8}\n',
        b'{"kind":"dutchdoor/checkpoint@1","run":"run"}\n',
    ],
)
def test_a_checkpoint_of_another_run_begins_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deep" / "c"
    path.parent.mkdir()
    path.write_bytes(content)
    with Checkpoint(path, "run", 9) as checkpoint:
        assert checkpoint.finished == 0
        checkpoint.add(1, done(1))
    with Checkpoint(path, "run", 9) as checkpoint:
        assert ids(checkpoint) == ["case 1"]
        checkpoint.remove()
    assert not path.exists()
