"""Verifying: what holds, and that each way of tampering is found and named."""

import base64
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from dutchdoor.bundle import Verdict, verify
from dutchdoor.bundle.dossier import (
    OFFER_PAYLOAD,
    STATEMENT_PAYLOAD,
    Statement,
    read_offer,
    read_statement,
    signed_offer,
    signed_statement,
)
from dutchdoor.bundle.layout import DOSSIER, MANIFEST, OFFER, SIGNER
from dutchdoor.cli.verify import as_data, lines
from dutchdoor.core import BundleError, canonical_json, digest_bytes
from dutchdoor.evidence import dsse
from dutchdoor.evidence.signing_keys import new_key

from .conftest import House

Change = Callable[[Path], object]


@pytest_asyncio.fixture
async def packed(house: House) -> House:
    await house.pack()
    return house


def statement_of(folder: Path) -> Statement:
    return read_statement(dsse.opened((folder / DOSSIER).read_bytes())[0])


def re_sign(house: House, change: Callable[[Statement], Statement]) -> None:
    """What only the key's holder could do: sign a statement that does not hold together."""
    path = house.bundle / DOSSIER
    path.write_bytes(signed_statement(change(statement_of(house.bundle)), house.signer))


async def found(house: House) -> dict[str, str]:
    report = await house.verify()
    assert report.verdict is Verdict.BROKEN
    return {finding.file: finding.what for finding in report.findings}


async def test_a_bundle_as_it_was_packed_is_valid(packed: House) -> None:
    report = await packed.verify()
    assert (report.verdict, report.findings, report.trusted) == (Verdict.VALID, (), True)
    assert report.signer == packed.signer.key_id


async def test_it_is_valid_wherever_it_lies(packed: House, tmp_path: Path) -> None:
    shutil.move(packed.bundle, tmp_path / "elsewhere")
    assert (await packed.verify(tmp_path / "elsewhere")).verdict is Verdict.VALID


async def test_an_unknown_signer_is_valid_but_said(packed: House) -> None:
    report = await verify(packed.bundle, [new_key().public])
    assert (report.verdict, report.signer) == (Verdict.UNKNOWN_SIGNER, packed.signer.key_id)


async def test_evidence_of_a_key_that_is_not_at_hand_is_only_claimed(house: House) -> None:
    """Anyone can write another's key id beside bytes that are no signature of theirs."""
    team = new_key()
    payload, kind, _, _ = dsse.opened(await house.evidence())
    await house.pack(evidence=[dsse.envelope(payload, kind, team.key_id, bytes(64)), await house.evidence()])
    report = await house.verify()
    assert report.verdict is Verdict.VALID
    assert report.makers == {house.signer.key_id}
    rows = [line for line in lines(report) if "outcomes in" in line]
    assert any(f"claimed by {team.key_id}, not checked: --trust KEYFILE" in row for row in rows)
    assert any(row.endswith("1 runs, signed by the same key") for row in rows)
    told = {row["key"]: row["checked"] for row in as_data(report)["evidence"]}
    assert told == {team.key_id: False, house.signer.key_id: True}
    with_key = await verify(house.bundle, [house.signer.public, team.public])
    assert "does not hold" in with_key.findings[0].what


async def test_broken_weighs_more_than_unknown(packed: House) -> None:
    (packed.bundle / "config.json").write_text("{}")
    report = await verify(packed.bundle, [])
    assert report.verdict is Verdict.BROKEN
    assert report.findings[0].file == "config.json"


def flip(name: str, at: int = -1) -> Change:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[at] ^= 1
        (folder / name).write_bytes(data)

    return change


def add(name: str, content: str = "x") -> Change:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return change


def swap(first: str, second: str) -> Change:
    def change(folder: Path) -> None:
        one, two = (folder / first).read_bytes(), (folder / second).read_bytes()
        (folder / first).write_bytes(two)
        (folder / second).write_bytes(one)

    return change


def rename(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


FILES = ["README.md", "LICENSE", "NOTICE", "config.json", "tokenizer.json", "model.safetensors"]
OURS = [DOSSIER, MANIFEST, OFFER, SIGNER]


@pytest.mark.parametrize("name", FILES + OURS)
async def test_a_changed_byte_is_found_and_its_file_named(packed: House, name: str) -> None:
    flip(name, 40)(packed.bundle)
    assert name in await found(packed)


@pytest.mark.parametrize("name", FILES + OURS)
async def test_a_truncated_file_is_found_and_named(packed: House, name: str) -> None:
    data = (packed.bundle / name).read_bytes()
    (packed.bundle / name).write_bytes(data[:-1])
    assert name in await found(packed)


@pytest.mark.parametrize("name", FILES + OURS)
async def test_a_removed_file_is_found_and_named(packed: House, name: str) -> None:
    (packed.bundle / name).unlink()
    assert (await found(packed))[name].startswith("missing")


@pytest.mark.parametrize("name", FILES + OURS)
async def test_an_emptied_file_is_found_and_named(packed: House, name: str) -> None:
    (packed.bundle / name).write_bytes(b"")
    assert name in await found(packed)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (add("extra.txt"), "extra.txt"),
        (add(".hidden"), ".hidden"),
        (add("modeling_tiny.py"), "modeling_tiny.py"),
        (add("sub/deep/file.json"), "sub/deep/file.json"),
        (add("dutchdoor/status.json"), "dutchdoor/status.json"),
        (add("config.json "), "config.json "),
        (add("new\nline"), "new\\nline"),
        (lambda folder: (folder / "empty").mkdir(), "empty/"),
        (lambda folder: (folder / "link").symlink_to("config.json"), "link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe"),
        (swap("config.json", "tokenizer.json"), "config.json"),
        (rename("config.json", "Config.json"), "config.json"),
        (rename("config.json", "confi\u0261.json"), "config.json"),
    ],
    ids=[
        "added",
        "hidden",
        "code",
        "nested",
        "status",
        "trailing space",
        "newline",
        "empty folder",
        "link",
        "pipe",
        "swapped",
        "case",
        "look-alike",
    ],
)
async def test_what_was_added_swapped_or_renamed_is_found(packed: House, change: Change, named: str) -> None:
    change(packed.bundle)
    assert named in await found(packed)


async def test_a_name_that_is_no_text_is_found_and_shown_escaped(packed: House) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(packed.bundle) + b"/\xff\xfe"))).write_text("x")
    except OSError:
        return  # this file system refuses such names by itself
    assert "\\udcff\\udcfe" in await found(packed)


async def test_a_file_replaced_by_a_link_to_its_own_content_is_found(packed: House, tmp_path: Path) -> None:
    (packed.bundle / "config.json").rename(tmp_path / "config.json")
    (packed.bundle / "config.json").symlink_to(tmp_path / "config.json")
    report = await packed.verify()
    assert any(each.file == "config.json" and "link" in each.what for each in report.findings)


async def test_a_folder_in_place_of_a_file_is_found(packed: House) -> None:
    (packed.bundle / "config.json").unlink()
    add("config.json/inside")(packed.bundle)
    assert {"config.json", "config.json/inside"} <= set(await found(packed))


def reformatted(change: Callable[[dict[str, object]], str]) -> Change:
    return lambda folder: (folder / DOSSIER).write_text(change(json.loads((folder / DOSSIER).read_text())))


@pytest.mark.parametrize(
    "change",
    [
        reformatted(lambda held: json.dumps(held, sort_keys=True)),
        reformatted(lambda held: json.dumps(held, indent=2, sort_keys=True)),
        reformatted(lambda held: json.dumps(dict(reversed(held.items())), separators=(",", ":"))),
        reformatted(lambda held: json.dumps(held, separators=(",", ":"), sort_keys=True) + "\n"),
        reformatted(lambda held: json.dumps({**held, "note": ""}, separators=(",", ":"), sort_keys=True)),
        reformatted(
            lambda held: json.dumps(
                {**held, "signatures": held["signatures"] * 2},  # type: ignore[operator]
                separators=(",", ":"),
                sort_keys=True,
            )
        ),
        lambda folder: (folder / DOSSIER).write_bytes(
            (folder / DOSSIER).read_bytes().replace(b'{"payload"', b'{"payload":"","payload"', 1)
        ),
        lambda folder: (folder / DOSSIER).write_bytes((folder / DOSSIER).read_bytes().replace(b"=", b"", 1)),
        lambda folder: (folder / DOSSIER).write_bytes(
            (folder / DOSSIER).read_bytes().decode().encode("utf-16")
        ),
    ],
    ids=["spaces", "indent", "order", "newline", "field", "signature", "duplicate", "padding", "utf-16"],
)
async def test_a_reformatted_or_re_encoded_dossier_is_found(packed: House, change: Change) -> None:
    before = (packed.bundle / DOSSIER).read_bytes()
    change(packed.bundle)
    assert (packed.bundle / DOSSIER).read_bytes() != before
    assert DOSSIER in await found(packed)


async def test_a_payload_that_is_signed_but_not_canonical_is_found(packed: House) -> None:
    payload = canonical_json(statement_of(packed.bundle))
    loose = json.dumps(json.loads(payload), indent=1).encode()
    (packed.bundle / DOSSIER).write_bytes(dsse.sign(loose, STATEMENT_PAYLOAD, packed.signer))
    assert "canonical" in (await found(packed))[DOSSIER]


async def test_a_payload_of_another_type_is_found(packed: House) -> None:
    payload = canonical_json(statement_of(packed.bundle))
    (packed.bundle / DOSSIER).write_bytes(dsse.sign(payload, OFFER_PAYLOAD, packed.signer))
    assert "expected" in (await found(packed))[DOSSIER]


async def test_a_bundle_signed_anew_by_a_stranger_is_never_valid(packed: House) -> None:
    stranger = new_key()
    changed = {"config.json": digest_bytes(b"{}"), SIGNER: digest_bytes(stranger.public.pem())}
    old = statement_of(packed.bundle)
    subjects = tuple(
        replace(each, digest={"sha256": changed[each.name].removeprefix("sha256:")})
        if each.name in changed
        else each
        for each in old.subject
    )
    (packed.bundle / "config.json").write_text("{}")
    (packed.bundle / SIGNER).write_bytes(stranger.public.pem())
    (packed.bundle / DOSSIER).write_bytes(signed_statement(replace(old, subject=subjects), stranger))
    assert (await packed.verify()).verdict is Verdict.BROKEN  # tree and offer are still the publisher's


async def test_the_key_that_came_along_is_never_trusted_by_itself(packed: House) -> None:
    report = await verify(packed.bundle, [])
    assert (report.trusted, report.verdict) == (False, Verdict.UNKNOWN_SIGNER)


async def test_another_key_in_the_bundle_is_found(packed: House) -> None:
    (packed.bundle / SIGNER).write_bytes(new_key().public.pem())
    assert SIGNER in await found(packed)
    report = await verify(packed.bundle, [])
    assert report.verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    "change",
    [{"member": "tiny-l"}, {"version": "2.0.0"}, {"family": "other"}, {"root": "sha256:" + "0" * 64}],
)
async def test_an_offer_of_another_bundle_is_found(packed: House, change: dict[str, str]) -> None:
    offer = read_offer(dsse.opened((packed.bundle / OFFER).read_bytes())[0])
    (packed.bundle / OFFER).write_bytes(signed_offer(replace(offer, **change), packed.signer))
    assert "another bundle" in (await found(packed))[OFFER]


async def test_a_newer_offer_of_the_same_signer_is_accepted(packed: House) -> None:
    offer = read_offer(dsse.opened((packed.bundle / OFFER).read_bytes())[0])
    newer = replace(offer, made_at="2027-01-01T00:00:00Z")
    (packed.bundle / OFFER).write_bytes(signed_offer(newer, packed.signer))
    report = await packed.verify()
    assert report.verdict is Verdict.VALID
    assert report.offer == newer


async def test_an_offer_of_a_stranger_is_found(packed: House) -> None:
    offer = read_offer(dsse.opened((packed.bundle / OFFER).read_bytes())[0])
    (packed.bundle / OFFER).write_bytes(signed_offer(offer, new_key()))
    assert OFFER in await found(packed)


def with_predicate(old: Statement, **changes: object) -> Statement:
    return replace(old, predicate=replace(old.predicate, **changes))


async def test_forged_evidence_is_found(packed: House) -> None:
    def change(old: Statement) -> Statement:
        (held,) = old.predicate.evidence
        outcomes = (replace(held.evidence.outcomes[0], correct=True),)
        forged = replace(held, evidence=replace(held.evidence, outcomes=outcomes))
        return with_predicate(old, evidence=(forged,))

    re_sign(packed, change)
    assert "evidence" in (await found(packed))[DOSSIER]


async def test_a_signature_of_evidence_that_is_no_base64_is_found(packed: House) -> None:
    def change(old: Statement) -> Statement:
        return with_predicate(old, evidence=(replace(old.predicate.evidence[0], sig="?" * 88),))

    re_sign(packed, change)
    assert "does not hold" in (await found(packed))[DOSSIER]


async def test_a_dossier_whose_own_decision_closes_the_member_is_found(packed: House) -> None:
    closed = packed.decision(small="evidence")
    re_sign(packed, lambda old: with_predicate(old, decision=closed))
    assert "does not open" in (await found(packed))[DOSSIER]


async def test_a_root_that_does_not_follow_is_found(packed: House) -> None:
    re_sign(
        packed,
        lambda old: with_predicate(old, tree=replace(old.predicate.tree, root="sha256:" + "0" * 64)),
    )
    assert "root" in (await found(packed))[DOSSIER]


@pytest.mark.parametrize("name", ["LICENSE", "README.md", MANIFEST, SIGNER])
async def test_a_dossier_that_binds_less_than_it_must_is_found(packed: House, name: str) -> None:
    def change(old: Statement) -> Statement:
        return replace(old, subject=tuple(each for each in old.subject if each.name != name))

    re_sign(packed, change)
    (packed.bundle / name).unlink()
    assert name in await found(packed)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a\\b", "a/../b", "e\u0301.txt", "", "c:\\x"])
async def test_a_listed_name_that_leads_elsewhere_is_found(packed: House, name: str) -> None:
    def change(old: Statement) -> Statement:
        return replace(old, subject=(*old.subject, replace(old.subject[0], name=name)))

    re_sign(packed, change)
    assert any("refused" in what for what in [each.what for each in (await packed.verify()).findings])


async def test_a_name_listed_twice_is_found(packed: House) -> None:
    re_sign(packed, lambda old: replace(old, subject=(*old.subject, old.subject[0])))
    assert any("twice" in each.what for each in (await packed.verify()).findings)


@pytest.mark.parametrize("where", ["no such folder", "a file", "empty", "parent"])
async def test_what_is_no_bundle_is_said_with_a_hint(packed: House, tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").write_text("x")
    (tmp_path / "empty").mkdir()
    folder = packed.out if where == "parent" else tmp_path / where
    with pytest.raises(BundleError) as caught:
        await verify(folder, [])
    assert caught.value.hint
    if where == "parent":
        assert "tiny-s" in caught.value.hint


async def test_a_dossier_that_is_too_deep_or_no_json_does_not_crash(packed: House) -> None:
    for data in (b"", b"{", b"[" * 200_000, b"\xff" * 100, b"null", base64.b64encode(b"x" * 1000)):
        (packed.bundle / DOSSIER).write_bytes(data)
        assert DOSSIER in await found(packed)
