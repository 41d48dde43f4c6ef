"""Dossiers of a hostile signer: whatever is signed in one, reading it is no crash and prints no control codes."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from dutchdoor.bundle import Verdict, verify
from dutchdoor.bundle.dossier import Dossier, read_statement, signed_statement, statement
from dutchdoor.bundle.layout import DOSSIER, OFFER, SIGNER, shown
from dutchdoor.bundle.verify import read_contents
from dutchdoor.cli.verify import as_data, lines
from dutchdoor.core import BundleError
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.signing_keys import new_key

from .conftest import House

BAD = "\x1b[2J\x1b]0;owned\x07\u202e\u200bx"


async def hostile(house: House, dossier: Dossier) -> tuple[str, Verdict]:
    """Sign a dossier over the folder with a stranger's key, and read it as `verify` shows it."""
    stranger = new_key()
    (house.bundle / OFFER).unlink(missing_ok=True)
    (house.bundle / SIGNER).write_bytes(stranger.public.pem())
    digests = dict((await read_contents(house.bundle)).digests)
    del digests[DOSSIER]
    (house.bundle / DOSSIER).write_bytes(signed_statement(statement(dossier, digests), stranger))
    report = await verify(house.bundle, [])
    assert msgspec.json.encode(as_data(report))
    return "\n".join(shown(line) for line in lines(report)), report.verdict


@pytest.fixture
async def dossier(house: House) -> Dossier:
    await house.pack()
    held = read_statement(dsse.opened((house.bundle / DOSSIER).read_bytes())[0]).predicate
    return replace(held, apart=(), evidence=())


async def test_the_helper_alone_makes_a_bundle_of_an_unknown_signer(house: House, dossier: Dossier) -> None:
    text, verdict = await hostile(house, dossier)
    assert verdict is Verdict.UNKNOWN_SIGNER
    assert "valid, but signed by an unknown key" in text


async def test_control_codes_are_shown_escaped(house: House, dossier: Dossier) -> None:
    nodes = tuple(replace(node, because=BAD if node.closed_by else None) for node in dossier.tree.nodes)
    text, _ = await hostile(
        house,
        replace(
            dossier,
            license=BAD,
            made_by=BAD,
            made_at=BAD,
            publisher=replace(dossier.publisher, name=BAD),
            tree=replace(dossier.tree, nodes=nodes),
        ),
    )
    assert "\\x1b[2J" in text
    assert all(char.isprintable() for line in text.split("\n") for char in line)


async def test_a_decision_without_channels_or_members_is_no_crash(house: House, dossier: Dossier) -> None:
    small = replace(dossier.decision.members["tiny-s"], channels={})
    for members in ({}, {"tiny-s": small}):
        decision = replace(dossier.decision, members=members)
        _, verdict = await hostile(house, replace(dossier, decision=decision))
        assert verdict is Verdict.BROKEN


async def test_a_member_that_is_nobody_is_found(house: House, dossier: Dossier) -> None:
    for member in (BAD, "tiny-l", "../x"):
        _, verdict = await hostile(house, replace(dossier, member=member))
        assert verdict is Verdict.BROKEN


async def test_nodes_that_point_out_of_the_bundle_are_found(house: House, dossier: Dossier) -> None:
    first = replace(dossier.tree.nodes[0], at="../", files=("secret",))
    nodes = (first, *dossier.tree.nodes[1:])
    _, verdict = await hostile(house, replace(dossier, tree=replace(dossier.tree, nodes=nodes)))
    assert verdict is Verdict.BROKEN


async def test_evidence_of_an_unreadable_signature_is_found(house: House, dossier: Dossier) -> None:
    from dutchdoor.bundle.dossier import SignedEvidence
    from dutchdoor.evidence.store import EvidenceStore

    await house.evidence()
    found = await EvidenceStore(house.folder / "evidence").all([house.signer.public])
    evidence: Evidence = found.evidence[0].evidence
    for sig in ("", "AAAA", "A" * 88, BAD):
        held = SignedEvidence(evidence=evidence, keyid=house.signer.key_id, sig=sig)
        _, verdict = await hostile(house, replace(dossier, evidence=(held,)))
        assert verdict is Verdict.BROKEN


async def test_a_folder_that_cant_be_listed_is_said(house: House, dossier: Dossier, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BundleError):
        await verify(tmp_path / "loop", [])
