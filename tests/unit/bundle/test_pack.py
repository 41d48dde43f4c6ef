"""Packing: what leaves, what stays, and what is refused."""

import json
import os
import pickle
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from dutchdoor.bundle import Verdict
from dutchdoor.bundle.pack import NothingLeavesError
from dutchdoor.core import BundleError, Channel, Exit, UsageError, WeightsError
from dutchdoor.policy.decision import Decision

from .conftest import SYSTEM_PROMPT, House, model_folder, safetensors, weights


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


async def test_only_open_members_and_open_family_components_leave(house: House) -> None:
    assert await house.pack() == [house.out / "tiny-s", house.out / "_family"]
    assert files(house.bundle) == {
        "LICENSE",
        "NOTICE",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "dutchdoor/dossier.json",
        "dutchdoor/manifest.json",
        "dutchdoor/offer.json",
        "dutchdoor/signer.pub",
    }
    assert "components/training-code/train/train.py" in files(house.out / "_family")
    assert not any("pyc" in name or ".hidden" in name or "corpus" in name for name in files(house.out))


async def test_every_bundle_of_a_release_has_the_same_root_and_verifies(house: House) -> None:
    reports = [await house.verify(path) for path in await house.pack()]
    assert {report.verdict for report in reports} == {Verdict.VALID}
    assert len({report.dossier.tree.root for report in reports if report.dossier}) == 1


async def test_the_root_does_not_depend_on_which_members_are_packed(house: House) -> None:
    await house.pack()
    whole = await house.verify()
    assert await house.pack(members=["tiny-s"]) == [house.bundle]
    alone = await house.verify()
    assert whole.dossier and alone.dossier
    assert whole.dossier.tree.root == alone.dossier.tree.root


async def test_a_closed_member_is_in_the_root_by_commitment_alone(house: House) -> None:
    from dutchdoor.family.weights import variant_digest

    await house.pack()
    text = "".join(path.read_text("utf-8", "replace") for path in house.out.rglob("*") if path.is_file())
    for digest in (variant_digest(house.folder / "tiny-l"),):
        assert digest.removeprefix("sha256:") not in text
    assert "serve/system.txt" not in text
    assert SYSTEM_PROMPT.strip() not in text


async def test_the_copies_are_neither_links_nor_executable(house: House) -> None:
    (house.folder / "train" / "train.py").chmod(0o755)
    await house.pack()
    for path in house.out.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            assert path.stat().st_nlink == 1
            assert not path.stat().st_mode & 0o111
    assert stat.S_IMODE(house.bundle.stat().st_mode) == 0o755


async def test_the_authors_card_is_kept_and_gets_one_section(house: House) -> None:
    card = "---\nlicense: apache-2.0\ntags: [x]\n---\n\n# My model\n\nTrained with care.\n"
    (house.folder / "tiny-s" / "README.md").write_text(card)
    await house.pack()
    packed = (house.bundle / "README.md").read_text()
    assert packed.startswith("---\nlicense: apache-2.0\ntags: [x]\n---\n")
    assert packed.endswith("# My model\n\nTrained with care.\n")
    assert packed.count("What is open, what is closed, why") == 1
    assert (house.folder / "tiny-s" / "README.md").read_text() == card
    (house.folder / "tiny-s" / "README.md").write_text(packed)  # a publisher takes the packed card over
    await house.pack()
    assert (house.bundle / "README.md").read_text() == packed


async def test_without_a_card_an_honest_one_is_written(house: House) -> None:
    await house.pack()
    card = (house.bundle / "README.md").read_text()
    assert "wrote no model card" in card
    assert "closed by evidence (fails hazard-after-tampering)" in card


async def test_the_offer_holds_price_and_promises_of_this_member_alone(house: House) -> None:
    await house.pack()
    offer = (await house.verify()).offer
    assert offer and offer.price
    assert (offer.price.input, offer.price.output, offer.promises.notice_days) == (0.02, 0.06, 90)
    assert set(offer.promises.price_cap) == {"tiny-s"}


async def test_a_second_variant_lies_in_a_folder_of_its_own(house: House) -> None:
    model_folder(house.folder / "other", 3)
    house.manifest(
        "[{id: f32, weights: ./tiny-s}]",
        "[{id: f32, weights: ./tiny-s}, {id: alt, weights: ./other, of: f32}]",
    )
    await house.pack()
    assert {"model.safetensors", "variants/alt/model.safetensors"} <= files(house.bundle)
    assert (await house.verify()).verdict is Verdict.VALID


async def test_an_open_component_inside_the_model_folder_leaves_once(house: House) -> None:
    house.manifest(
        "    variants: [{id: f32, weights: ./tiny-s}]\n",
        "    variants: [{id: f32, weights: ./tiny-s}]\n"
        "    components: [{kind: tokenizer, path: tiny-s/tokenizer.json}]\n",
    )
    await house.pack()
    assert not any(name.startswith("components/") for name in files(house.bundle))
    report = await house.verify()
    assert report.dossier
    node = next(node for node in report.dossier.tree.nodes if node.kind == "tokenizer")
    assert (node.at, node.files) == ("", ("tokenizer.json",))


async def test_a_members_own_component_leaves_with_it_and_its_licence(house: House) -> None:
    (house.folder / "notes").mkdir()
    (house.folder / "notes" / "report.md").write_text("# Report\n")
    house.manifest(
        "    variants: [{id: f32, weights: ./tiny-s}]\n",
        "    variants: [{id: f32, weights: ./tiny-s}]\n"
        "    components: [{kind: technical-report, path: notes/report.md, license: CC-BY-4.0}]\n",
    )
    await house.pack()
    assert {"components/technical-report/report.md", "LICENSES/CC-BY-4.0.txt"} <= files(house.bundle)


@pytest.mark.parametrize(
    ("closed_by", "code"),
    [
        ("choice", Exit.AGAINST),
        ("evidence", Exit.AGAINST),
        ("inconclusive", Exit.INCONCLUSIVE),
        ("no-rule", Exit.INCONCLUSIVE),
    ],
)
async def test_when_nothing_may_leave_nothing_is_written(house: House, closed_by: str, code: Exit) -> None:
    with pytest.raises(NothingLeavesError, match=f"tiny-s is closed by {closed_by}") as caught:
        await house.pack(house.decision(small=closed_by))  # type: ignore[arg-type]
    assert caught.value.exit_code is code
    assert not house.out.exists()


async def test_a_closed_member_that_is_asked_for_is_refused(house: House) -> None:
    with pytest.raises(NothingLeavesError, match="tiny-l is closed by evidence"):
        await house.pack(members=["tiny-s", "tiny-l"])
    assert not house.out.exists()


async def test_an_unknown_member_is_a_usage_error(house: House) -> None:
    with pytest.raises(UsageError, match="'tiny-x'"):
        await house.pack(members=["tiny-x"])


async def test_packing_again_replaces_our_own_bundle(house: House) -> None:
    await house.pack()
    (house.bundle / "model.safetensors").write_bytes(b"broken")
    await house.pack()
    assert (await house.verify()).verdict is Verdict.VALID
    assert {path.name for path in house.out.iterdir()} == {"tiny-s", "_family"}


async def test_a_damaged_bundle_of_ours_is_replaced(house: House) -> None:
    await house.pack()
    for name, text in {"dossier.json": '{ "payload": "" }', "manifest.json": "[]"}.items():
        (house.bundle / "dutchdoor" / name).write_text(text)
        await house.pack()
        assert (await house.verify()).verdict is Verdict.VALID


@pytest.mark.parametrize("content", [{"notes.txt": "mine"}, {"dutchdoor/dossier.json": "{}"}])
async def test_a_foreign_folder_is_never_overwritten(house: House, content: dict[str, str]) -> None:
    for name, text in content.items():
        (house.bundle / name).parent.mkdir(parents=True)
        (house.bundle / name).write_text(text)
    with pytest.raises(BundleError, match="in the way"):
        await house.pack()
    assert files(house.out) == {f"tiny-s/{name}" for name in content}


async def test_a_link_in_the_way_is_never_followed(house: House, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    house.out.mkdir()
    house.bundle.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="in the way"):
        await house.pack()
    assert not any((tmp_path / "elsewhere").iterdir())


async def test_a_bundle_of_a_member_that_closes_is_taken_away(house: House) -> None:
    (house.folder / "tiny-l" / "LICENSE").write_text("Ask us.\n")
    await house.pack(house.decision(flagship=None), evidence=[])
    assert (house.out / "tiny-l").is_dir()
    said: list[str] = []
    await house.pack(say=said.append)
    assert not (house.out / "tiny-l").exists()
    assert "can't be recalled" in said[0]


async def test_a_bundle_is_taken_away_also_when_every_download_closes(house: House) -> None:
    await house.pack()
    said: list[str] = []
    with pytest.raises(NothingLeavesError):
        await house.pack(house.decision(small="evidence"), say=said.append)
    assert list(house.out.iterdir()) == []
    assert [text.split(":")[0] for text in said] == [
        f"removed {house.bundle}",
        f"removed {house.out}/_family",
    ]


async def test_a_bundle_that_was_not_asked_for_is_only_told_of(house: House) -> None:
    await house.pack()
    said: list[str] = []
    with pytest.raises(NothingLeavesError):
        await house.pack(house.decision(small="evidence"), members=["tiny-l"], say=said.append)
    assert house.bundle.is_dir()
    assert "may no longer be given away" in said[0]


async def test_a_foreign_folder_is_not_taken_away(house: House) -> None:
    (house.bundle / "dutchdoor").mkdir(parents=True)
    with pytest.raises(NothingLeavesError):
        await house.pack(house.decision(small="evidence"))
    assert house.bundle.is_dir()


async def test_what_cannot_be_taken_away_is_an_error(house: House, tmp_path: Path) -> None:
    await house.pack()
    house.bundle.rename(tmp_path / "kept")
    house.bundle.symlink_to(tmp_path / "kept")
    with pytest.raises(BundleError, match="can't remove") as caught:
        await house.pack(house.decision(small="evidence"))
    assert "by hand" in str(caught.value.hint)
    assert any((tmp_path / "kept").iterdir())


def _sized(decision: Decision, member: str, value: float) -> Decision:
    """The decision with one more verdict, over a count of parameters."""
    decided = decision.members[member]
    download = decided.channels[Channel.DOWNLOAD]
    verdict = replace(download.verdicts[0], measure="parameters", value=value, lower=value, upper=value)
    channels = {**decided.channels, Channel.DOWNLOAD: replace(download, verdicts=(verdict,))}
    return replace(decision, members={**decision.members, member: replace(decided, channels=channels)})


@pytest.mark.parametrize(
    ("member", "value", "shown"),
    [("tiny-l", 1152.0, None), ("tiny-s", 1152.0, 1152.0), ("tiny-s", 0.25, None)],
    ids=["of closed weights", "of open weights", "of open weights by those of closed ones"],
)
async def test_the_dossier_counts_parameters_of_open_weights_alone(
    house: House, member: str, value: float, shown: float | None
) -> None:
    facts = house.loaded.facts("tiny-s", "f32")
    assert facts is not None
    assert facts.parameters == 1152
    await house.pack(_sized(house.decision(), member, value))
    report = await house.verify()
    assert report.verdict is Verdict.VALID
    assert report.dossier
    (verdict,) = report.dossier.decision.members[member].channels[Channel.DOWNLOAD].verdicts
    assert (verdict.value, verdict.lower, verdict.upper) == (shown,) * 3


async def test_a_fault_in_one_bundle_leaves_all_as_they_were(house: House) -> None:
    await house.pack()
    before = {path: path.read_bytes() for path in house.out.rglob("*") if path.is_file()}
    (house.folder / "train" / "prompt.txt").write_text(SYSTEM_PROMPT)  # only the family's bundle would leak
    with pytest.raises(BundleError, match="closed content"):
        await house.pack()
    assert {path: path.read_bytes() for path in house.out.rglob("*") if path.is_file()} == before
    assert {path.name for path in house.out.iterdir()} == {"tiny-s", "_family"}


async def test_bytes_that_the_evidence_is_not_about_do_not_leave(house: House) -> None:
    evidence = await house.evidence()
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(safetensors(weights(9)))
    with pytest.raises(BundleError, match="about other bytes"):
        await house.pack(evidence=[evidence])
    assert files(house.out) == set()


async def test_a_member_without_a_licence_is_refused(house: House) -> None:
    house.manifest("    license: Apache-2.0\n    variants", "    variants")
    with pytest.raises(BundleError, match="tiny-s has no licence"):
        await house.pack()


async def test_a_licence_whose_text_is_nowhere_is_refused_with_a_remedy(house: House) -> None:
    house.manifest("    license: Apache-2.0\n    variants", "    license: LicenseRef-mine\n    variants")
    with pytest.raises(BundleError, match="its text is nowhere") as caught:
        await house.pack()
    assert "LICENSE" in str(caught.value.hint)
    (house.folder / "tiny-s" / "LICENSE").write_text("You may do as you please.\n")
    await house.pack()
    assert (house.bundle / "LICENSE").read_text() == "You may do as you please.\n"


async def test_the_text_of_another_licence_is_refused(house: House) -> None:
    (house.folder / "tiny-s" / "LICENSE").write_text("No rights are granted.\n")
    with pytest.raises(BundleError, match=r"not the text of Apache-2\.0"):
        await house.pack()


async def test_the_mit_text_names_the_holder(house: House) -> None:
    house.manifest("    license: Apache-2.0\n    variants", "    license: MIT\n    variants")
    await house.pack(made_at="2026-11-22T12:00:00Z")
    assert "Copyright (c) 2026 Example Lab" in (house.bundle / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.bin", b"x", "may be a pickle"),
        ("data.dat", b"\x80\x04\x95.", "a pickle"),
        ("old.dat", pickle.dumps({"a": 1}, 0), "a pickle"),
        ("old.txt", pickle.dumps(["x", "y"], 1), "a pickle"),
        ("runs.txt", pickle.dumps(Path("x"), 0) + b"and more", "a pickle"),
        ("long.txt", pickle.dumps([str(n) for n in range(300_000)], 0), "a pickle"),
        ("array.npy", b"x", "may be a pickle"),
        ("array.dat", b"\x93NUMPY\x01\x00", "a NumPy array"),
        ("tool", b"\x7fELF\x02", "a program"),
        ("tool.so.1", b"x", "compiled code"),
        ("part.safetensors", b"\x08\0\0\0\0\0\0\0", "is broken"),
    ],
)
async def test_what_could_run_or_is_broken_does_not_leave(
    house: House, name: str, content: bytes, words: str
) -> None:
    (house.folder / "train" / name).write_bytes(content)
    with pytest.raises((BundleError, WeightsError), match=words) as caught:
        await house.pack()
    assert name in caught.value.message
    assert not house.out.exists()


@pytest.mark.parametrize(
    "text", ["", ".", "0.5\n", "cost\nname\n0.5\n1.5\n", "I am.", "(1.0, 2.0)\n", "N.", "S'\\d'."]
)
async def test_a_text_that_begins_like_a_pickle_leaves(house: House, text: str) -> None:
    (house.folder / "train" / "notes.txt").write_text(text)
    assert await house.pack()


async def test_a_link_that_leaves_the_component_is_refused(house: House) -> None:
    (house.folder / "train" / "link.txt").symlink_to("/etc/hostname")
    with pytest.raises((BundleError, WeightsError), match="leaves its folder"):
        await house.pack()


async def test_a_truncated_weights_file_is_refused(house: House) -> None:
    path = house.folder / "tiny-s" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"truncated|broken"):
        await house.pack(evidence=[])


async def test_no_write_permission_is_said(house: House) -> None:
    house.out.write_text("a file where the folder should be")
    with pytest.raises(BundleError, match="can't write"):
        await house.pack()


async def test_two_names_that_are_one_without_case_are_refused(house: House) -> None:
    (house.folder / "train" / "Train.py").write_text("x = 1\n")
    if len(list((house.folder / "train").glob("*.py"))) < 2:
        return  # this file system can't hold both
    with pytest.raises(BundleError, match="case does not count"):
        await house.pack()


async def test_a_file_beside_a_folder_of_its_name_without_case_is_refused(house: House) -> None:
    (house.folder / "train" / "Data").mkdir()
    (house.folder / "train" / "Data" / "x.py").write_text("x = 1\n")
    if (house.folder / "train" / "data").exists():
        return  # this file system can't hold both
    (house.folder / "train" / "data").write_text("x\n")
    with pytest.raises(BundleError, match="case does not count"):
        await house.pack()


async def test_evidence_keeps_its_makers_signature(house: House) -> None:
    await house.pack()
    report = await house.verify()
    assert report.dossier
    (held,) = report.dossier.evidence
    assert held.keyid == house.signer.key_id
    assert held.evidence.outcomes[0].id == "h1"


async def test_the_manifest_in_the_bundle_is_json_a_person_can_read(house: House) -> None:
    await house.pack()
    text = (house.bundle / "dutchdoor" / "manifest.json").read_text()
    assert json.loads(text)["family"] == "tiny"
    assert text.count("\n") > 10
    assert os.linesep in text
