"""Only evidence about exactly these bytes, this suite and this guard is found."""

from pathlib import Path

import msgspec
import pytest

from dutchdoor.core import ThreatModel
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Rung, Subject
from dutchdoor.evidence.shelf import StoredShelf, open_shelf
from dutchdoor.evidence.signing_keys import SigningKey, new_key
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import Subjects, identify, why_unattackable
from dutchdoor.family.load import LoadedFamily, load_family
from tests.fakes.families import FAMILY, write_family, write_weights

GUARDED, TAMPERED = ThreatModel.GUARDED, ThreatModel.TAMPERED
RUNG = Rung(attack="lora", steps=10, examples=4, seed=0, attack_set="sha256:" + "a" * 64)
SUITE = ("skill.sums", "sha256:suite")


class Place:
    """A family with its private folder."""

    def __init__(self, folder: Path, family: str = FAMILY) -> None:
        self.manifest = write_family(folder, family)
        self.data = folder / ".dutchdoor"
        self.store = EvidenceStore(self.data / "evidence")
        self.salts = Salts(self.data / "salts")
        self.key: SigningKey = new_key()

    @property
    def loaded(self) -> LoadedFamily:
        return load_family(self.manifest)

    async def subjects(self) -> Subjects:
        return await identify(self.loaded, self.salts, self.data / "cache")

    async def shelf(self) -> StoredShelf:
        return await open_shelf(
            self.store, self.loaded, [self.key.public], salts=self.salts, cache=self.data / "cache"
        )

    async def put(
        self,
        member: str,
        threat: ThreatModel,
        rung: Rung | None = None,
        *,
        serve: bool = False,
        version: str = "1",
        made_at: str = "2026-11-22T10:00:00Z",
        variant: str = "f32",
        commitment: str | None = None,
        key: SigningKey | None = None,
        suite: tuple[str, str] = SUITE,
    ) -> Evidence:
        subjects = await self.subjects()
        named = commitment or subjects.weights_commitment(member, variant, make=True) or "none"
        evidence = Evidence(
            subject=Subject(family="tiny", member=member, variant=variant, commitment=named),
            conditions=Conditions(
                suite=suite[0],
                suite_digest=suite[1],
                threat=threat,
                rung=None if rung is None else subjects.as_run(rung, make=True),
                serve=subjects.serve_commitment(member, make=True) if serve else None,
                engine="e",
                engine_version=version,
            ),
            outcomes=(Outcome(id="1", correct=True, refused=False),),
            made_at=made_at,
            code_version="0",
        )
        await self.store.put(evidence, key or self.key)
        return evidence


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_plain_evidence_counts_for_both_threats_when_nothing_is_attacked(place: Place) -> None:
    made = await place.put("small", GUARDED)
    shelf = await place.shelf()
    assert shelf.find("small", "f32", *SUITE, GUARDED, None) == made
    assert shelf.find("small", "f32", *SUITE, TAMPERED, None) == made
    assert shelf.find("small", "f32", *SUITE, TAMPERED, RUNG) is None
    assert shelf.find("large", "f32", *SUITE, GUARDED, None) is None


async def test_evidence_behind_a_guard_says_nothing_of_the_bare_weights(place: Place) -> None:
    guarded = await place.put("large", GUARDED, serve=True)
    shelf = await place.shelf()
    assert shelf.find("large", "f32", *SUITE, GUARDED, None) == guarded
    assert shelf.find("large", "f32", *SUITE, TAMPERED, None) is None
    bare = await place.put("large", TAMPERED)
    shelf = await place.shelf()
    assert shelf.find("large", "f32", *SUITE, GUARDED, None) == guarded
    assert shelf.find("large", "f32", *SUITE, TAMPERED, None) == bare


async def test_bare_evidence_never_counts_as_behind_a_guard(place: Place) -> None:
    await place.put("large", GUARDED)
    assert (await place.shelf()).find("large", "f32", *SUITE, GUARDED, None) is None


async def test_each_rung_is_its_own(place: Place) -> None:
    made = await place.put("small", TAMPERED, RUNG)
    shelf = await place.shelf()
    assert shelf.find("small", "f32", *SUITE, TAMPERED, RUNG) == made
    assert shelf.find("small", "f32", *SUITE, TAMPERED, None) is None
    for change in (
        {"seed": 1},
        {"steps": 9},
        {"examples": 5},
        {"attack_set": "sha256:" + "b" * 64},
        {"settings": {"rank": 8}},
    ):
        other = msgspec.structs.replace(RUNG, **change)
        assert shelf.find("small", "f32", *SUITE, TAMPERED, other) is None
    assert shelf.find("small", "f32", *SUITE, GUARDED, RUNG) is None


async def test_changed_weights_have_no_evidence(place: Place) -> None:
    await place.put("small", GUARDED)
    write_weights(place.manifest.parent / "small", 41)
    assert (await place.shelf()).find("small", "f32", *SUITE, GUARDED, None) is None


async def test_another_suite_or_another_version_of_it_has_no_evidence(place: Place) -> None:
    await place.put("small", GUARDED)
    shelf = await place.shelf()
    assert shelf.find("small", "f32", "skill.sums", "sha256:edited", GUARDED, None) is None
    assert shelf.find("small", "f32", "hazard.potions", "sha256:suite", GUARDED, None) is None


async def test_a_changed_system_prompt_has_no_evidence(place: Place) -> None:
    await place.put("large", GUARDED, serve=True)
    (place.manifest.parent / "system.txt").write_text("You are cruel.")
    assert (await place.shelf()).find("large", "f32", *SUITE, GUARDED, None) is None


async def test_a_guard_that_was_added_or_removed_has_no_evidence(place: Place) -> None:
    await place.put("large", GUARDED, serve=True)
    await place.put("small", GUARDED)
    text = place.manifest.read_text()
    place.manifest.write_text(text.replace("    serve: {system_prompt: system.txt}\n", ""))
    assert (await place.shelf()).find("large", "f32", *SUITE, GUARDED, None) is None
    added = "weights: ./small}]\n    serve: {system_prompt: system.txt}"
    place.manifest.write_text(text.replace("weights: ./small}]", added))
    assert (await place.shelf()).find("small", "f32", *SUITE, GUARDED, None) is None


async def test_of_several_the_newest_is_given(place: Place) -> None:
    await place.put("small", GUARDED, version="2", made_at="2026-11-22T10:00:01Z")
    newest = await place.put("small", GUARDED, version="1", made_at="2026-11-22T10:00:02Z")
    await place.put("small", GUARDED, version="3", made_at="2026-11-21T23:59:59Z")
    assert (await place.shelf()).find("small", "f32", *SUITE, GUARDED, None) == newest


async def test_evidence_of_a_stranger_is_not_found_and_named(place: Place) -> None:
    await place.put("small", GUARDED, key=new_key())
    shelf = await place.shelf()
    assert shelf.find("small", "f32", *SUITE, GUARDED, None) is None
    assert "not trusted" in shelf.warnings[0]


async def test_evidence_names_bytes_by_commitment_never_by_digest(place: Place) -> None:
    made = await place.put("large", GUARDED, serve=True)
    subjects = await place.subjects()
    text = msgspec.json.encode(made).decode()
    digest = subjects.bytes_of("large", "f32").digest
    assert digest is not None
    assert digest.removeprefix("sha256:") not in text
    assert made.subject.commitment.startswith("commit:sha256:")


async def test_without_its_salt_evidence_is_not_found(place: Place) -> None:
    await place.put("small", GUARDED)
    for salt in place.salts.folder.iterdir():
        salt.unlink()
    assert (await place.shelf()).find("small", "f32", *SUITE, GUARDED, None) is None


async def test_a_reference_is_asked_for_by_its_name(place: Place) -> None:
    made = await place.put("public", GUARDED, variant="weights")
    assert (await place.shelf()).find("public", "weights", *SUITE, TAMPERED, None) == made


async def test_a_member_served_elsewhere_is_named_by_its_address(tmp_path: Path) -> None:
    target = "serve: {target: {url: 'https://api.example.org/v1', model: big}}"
    place = Place(tmp_path, FAMILY.replace("serve: {system_prompt: system.txt}", target))
    subjects = await place.subjects()
    there = subjects.target_commitment("large", "f32", make=True)
    assert there is not None
    made = await place.put("large", GUARDED, commitment=there)
    shelf = await place.shelf()
    assert shelf.find("large", "f32", *SUITE, GUARDED, None) == made
    assert shelf.find("large", "f32", *SUITE, TAMPERED, None) is None
    bare = await place.put("large", TAMPERED)
    shelf = await place.shelf()
    assert shelf.find("large", "f32", *SUITE, TAMPERED, None) == bare
    assert shelf.find("large", "f32", *SUITE, GUARDED, None) == made
    place.manifest.write_text(place.manifest.read_text().replace("model: big", "model: other"))
    assert (await place.shelf()).find("large", "f32", *SUITE, GUARDED, None) is None


async def test_attestation_counts_the_named_key_alone(place: Place, tmp_path: Path) -> None:
    team, key_file = new_key(), tmp_path / "team.pub"
    key_file.write_bytes(team.public.pem())
    await place.put("small", GUARDED)
    assert (await place.shelf()).attested("small", "f32", key_file) is None
    await place.put("small", GUARDED, version="2", made_at="2026-11-20T10:00:00Z", key=team)
    shelf = await place.shelf()
    found = shelf.attested("small", "f32", key_file)
    assert found is not None and found.made_at.startswith("2026-11-20")
    assert shelf.attested("large", "f32", key_file) is None


async def test_why_there_can_be_no_evidence_is_said(place: Place) -> None:
    (place.manifest.parent / "small" / "model.safetensors").unlink()
    (place.manifest.parent / "small" / "pytorch_model.bin").write_bytes(b"pickle")
    shelf = await place.shelf()
    assert "pickle" in (shelf.why_missing("small", "f32") or "")
    assert shelf.why_missing("large", "f32") is None
    assert shelf.why_missing("large", "q8") is not None


def test_quantised_weights_can_not_be_attacked(place: Place) -> None:
    assert why_unattackable(place.loaded, "small", "f32") is None
    config = place.manifest.parent / "small" / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"], "quantization_config": {}}')
    assert "quantised" in (why_unattackable(place.loaded, "small", "f32") or "")
