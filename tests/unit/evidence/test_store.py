"""What is stored comes back; what was touched, misnamed or signed by a stranger does not."""

import stat
import threading
from pathlib import Path

import msgspec
import pytest

from dutchdoor.core import EvidenceError, ThreatModel, canonical_json
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Subject
from dutchdoor.evidence.signing_keys import new_key
from dutchdoor.evidence.store import PAYLOAD_TYPE, EvidenceStore, Salts

KEY = new_key()
TRUSTED = [KEY.public]


def evidence(version: str = "1", made_at: str = "2026-11-22T10:00:00Z", twice: bool = False) -> Evidence:
    outcomes = (
        Outcome(id="a", correct=True, refused=False),
        Outcome(id="b", correct=None, refused=None, error="down"),
    )
    return Evidence(
        subject=Subject(family="f", member="m", variant="v", commitment="commit:sha256:0"),
        conditions=Conditions(
            suite="skill.x",
            suite_digest="sha256:s",
            threat=ThreatModel.GUARDED,
            engine="e",
            engine_version=version,
        ),
        outcomes=outcomes * 2 if twice else outcomes,
        made_at=made_at,
        code_version="0",
    )


async def test_what_is_put_comes_back(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    address = await store.put(evidence(), KEY)
    assert address == evidence().address
    assert await store.get(address, TRUSTED) == evidence()
    contents = await store.all(TRUSTED)
    assert [stored.evidence for stored in contents.evidence] == [evidence()]
    assert contents.evidence[0].key_id == KEY.key_id
    assert contents.warnings == ()
    assert dsse.check(await store.envelope_of(evidence()), TRUSTED).payload == canonical_json(evidence())
    assert [path.name for path in store.folder.iterdir()] == [address.removeprefix("sha256:") + ".json"]


async def test_an_empty_store_is_empty(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "none")
    assert (await store.all(TRUSTED)).evidence == ()
    with pytest.raises(EvidenceError, match="there is no evidence"):
        await store.get(evidence().address, TRUSTED)
    with pytest.raises(EvidenceError, match="no address"):
        await store.get("sha256:../../etc/passwd", TRUSTED)


async def test_a_changed_byte_anywhere_is_left_out_with_a_warning(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    path = store.path(await store.put(evidence(), KEY))
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        contents = await store.all(TRUSTED)
        assert contents.evidence == ()
        assert path.name in contents.warnings[0]


@pytest.mark.parametrize(
    "rest", [b"", b"{", b"null", b"[]", b'{"payload":"","payloadType":"","signatures":[]}']
)
async def test_a_file_that_is_no_evidence_is_left_out(tmp_path: Path, rest: bytes) -> None:
    store = EvidenceStore(tmp_path)
    await store.put(evidence(), KEY)
    (tmp_path / f"{'0' * 64}.json").write_bytes(rest)
    contents = await store.all(TRUSTED)
    assert len(contents.evidence) == 1
    assert len(contents.warnings) == 1


async def test_a_stranger_s_evidence_is_left_out(tmp_path: Path) -> None:
    store, stranger = EvidenceStore(tmp_path), new_key()
    await store.put(evidence(), stranger)
    contents = await store.all(TRUSTED)
    assert contents.evidence == ()
    assert "not trusted" in contents.warnings[0]
    assert len((await store.all([stranger.public])).evidence) == 1


async def test_evidence_under_another_s_name_is_left_out(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    path = store.path(await store.put(evidence(), KEY))
    path.rename(tmp_path / f"{'1' * 64}.json")
    assert "another address" in (await store.all(TRUSTED)).warnings[0]


@pytest.mark.parametrize(
    ("bad", "why"),
    [(evidence(twice=True), "twice"), (evidence(made_at="yesterday"), "no moment")],
)
async def test_signed_nonsense_is_left_out(tmp_path: Path, bad: Evidence, why: str) -> None:
    store = EvidenceStore(tmp_path)
    await store.put(bad, KEY)
    assert why in (await store.all(TRUSTED)).warnings[0]


async def test_another_kind_of_payload_is_left_out(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    path = store.path(evidence().address)
    path.write_bytes(dsse.sign(canonical_json(evidence()), "application/vnd.dutchdoor.offer.v1+json", KEY))
    assert "expected" in (await store.all(TRUSTED)).warnings[0]
    path.write_bytes(dsse.sign(canonical_json({"kind": "dutchdoor/evidence@1"}), PAYLOAD_TYPE, KEY))
    assert "missing" in (await store.all(TRUSTED)).warnings[0]


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("a file where the folder should be")
    with pytest.raises(EvidenceError, match="can't write") as caught:
        await EvidenceStore(tmp_path / "evidence").put(evidence(), KEY)
    assert caught.value.hint is not None


def test_the_address_names_all_that_outcomes_depend_on() -> None:
    base = evidence()
    assert base.address == msgspec.structs.replace(base, outcomes=(), made_at="x", code_version="y").address
    for field, value in {"engine_version": "2", "suite_digest": "sha256:t", "seed": 1, "serve": "c"}.items():
        conditions = msgspec.structs.replace(base.conditions, **{field: value})
        assert msgspec.structs.replace(base, conditions=conditions).address != base.address


def test_a_salt_is_made_once_a_digest_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    salts, digest = Salts(tmp_path / "salts"), "sha256:" + "a" * 64
    assert salts.known(digest) is None
    salt = salts.for_digest(digest)
    assert len(salt) == 32
    assert Salts(tmp_path / "salts").for_digest(digest) == salt == salts.known(digest)
    assert salts.for_digest("sha256:" + "b" * 64) != salt
    assert stat.S_IMODE((tmp_path / "salts" / ("a" * 64)).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "salts").iterdir()) == ["a" * 64, "b" * 64]
    with pytest.raises(EvidenceError, match="no digest"):
        salts.for_digest("sha256:../x")


def test_many_at_once_agree_on_a_salt(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(Salts(tmp_path).for_digest("sha256:" + "c" * 64)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 16


def test_a_torn_salt_is_an_error_and_not_a_new_one(tmp_path: Path) -> None:
    (tmp_path / ("d" * 64)).write_bytes(b"short")
    with pytest.raises(EvidenceError, match="5 bytes"):
        Salts(tmp_path).for_digest("sha256:" + "d" * 64)


async def test_what_two_signed_under_the_same_conditions_stays_apart(tmp_path: Path) -> None:
    store, team = EvidenceStore(tmp_path), new_key()
    theirs = evidence(made_at="2026-11-20T00:00:00Z")
    await store.put(evidence(), KEY)
    await store.put(theirs, team)
    await store.put(evidence(), KEY)
    assert [each.evidence for each in (await store.all(TRUSTED)).evidence] == [evidence()]
    assert [each.evidence for each in (await store.all([team.public])).evidence] == [theirs]
    assert dsse.opened(await store.envelope_of(theirs))[2] == team.key_id
    assert dsse.opened(await store.envelope_of(evidence()))[2] == KEY.key_id


async def test_a_day_that_is_in_no_calendar_is_left_out(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    await store.put(evidence(made_at="2026-02-30T10:00:00Z"), KEY)
    assert "no moment" in (await store.all(TRUSTED)).warnings[0]
