"""The release log: each way of touching a line is found; appends survive a crash and each other."""

import multiprocessing
from pathlib import Path

import pytest

from dutchdoor.core import EvidenceError
from dutchdoor.evidence.release_log import ReleaseLog, append, read, release_log
from dutchdoor.evidence.signing_keys import SigningKey, new_key


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return new_key()


@pytest.fixture
def log(tmp_path: Path, key: SigningKey) -> ReleaseLog:
    log = release_log(tmp_path, "tiny")
    for index in range(4):
        append(log, "evidence", f"sha256:{index}", key, name=f"run {index}")
    return log


def lines(log: ReleaseLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_a_log_that_nobody_touched_holds(log: ReleaseLog, key: SigningKey) -> None:
    history = read(log, [key.public])
    assert history.faults == history.notes == ()
    assert [each.entry.sequence for each in history.entries] == [0, 1, 2, 3]
    assert history.entries[3].entry.previous == history.entries[2].digest
    assert all(each.trusted for each in history.entries)


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_removed_line_is_found(log: ReleaseLog, key: SigningKey, gone: int) -> None:
    rows = lines(log)
    del rows[gone]
    log.path.write_bytes(b"".join(rows))
    assert read(log, [key.public]).faults


def test_swapped_lines_are_found(log: ReleaseLog, key: SigningKey) -> None:
    rows = lines(log)
    log.path.write_bytes(rows[0] + rows[2] + rows[1] + rows[3])
    assert any("edited, removed or swapped" in each for each in read(log, [key.public]).faults)


def test_an_edited_line_is_found_also_when_it_was_signed_again(log: ReleaseLog, key: SigningKey) -> None:
    rows = lines(log)
    log.path.write_bytes(rows[0] + rows[1].replace(b"A", b"B", 1) + rows[2] + rows[3])
    assert read(log, [key.public]).faults
    other = release_log(log.path.parent.parent / "other", "tiny")
    append(other, "evidence", "sha256:0", key, name="run 0")
    append(other, "evidence", "sha256:forged", key, name="run 1")
    log.path.write_bytes(rows[0] + lines(other)[1] + rows[2] + rows[3])
    assert read(log, [key.public]).faults


def test_half_a_last_line_is_not_counted_and_cut_off_by_the_next_append(
    log: ReleaseLog, key: SigningKey
) -> None:
    with log.path.open("ab") as file:
        file.write(lines(log)[3][:100])
    history = read(log, [key.public])
    assert (len(history.entries), history.faults) == (4, ())
    assert "half a last line" in history.notes[0]
    append(log, "pack", "sha256:4", key)
    history = read(log, [key.public])
    assert (len(history.entries), history.faults, history.notes) == (5, (), ())


def test_a_crash_between_line_and_head_is_no_fault(log: ReleaseLog, key: SigningKey) -> None:
    before = log.head_path.read_bytes()
    append(log, "pack", "sha256:4", key)
    log.head_path.write_bytes(before)
    assert read(log, [key.public]).faults == ()
    log.head_path.unlink()
    assert read(log, [key.public]).faults


def test_nothing_is_chained_to_what_is_broken(log: ReleaseLog, key: SigningKey) -> None:
    log.path.write_bytes(b"not ours\n")
    with pytest.raises(EvidenceError, match="none of a release log"):
        append(log, "pack", "sha256:4", key)


def test_a_line_of_an_unknown_key_is_no_trusted_one(log: ReleaseLog, key: SigningKey) -> None:
    append(log, "policy", "sha256:p", new_key())
    history = read(log, [key.public])
    assert history.faults == ()
    assert [each.trusted for each in history.entries] == [True] * 4 + [False]


def _append_ten(folder: Path, name: int) -> None:
    own = new_key()
    for index in range(10):
        append(release_log(folder, "tiny"), "evidence", f"sha256:{name}-{index}", own)


def test_writers_at_once_make_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_ten, args=(tmp_path, name)) for name in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(60)
        assert each.exitcode == 0
    history = read(release_log(tmp_path, "tiny"), ())
    assert (len(history.entries), history.faults) == (30, ())
