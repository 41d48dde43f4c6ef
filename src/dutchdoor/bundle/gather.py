"""What the bundles of one release have in common: tree, public manifest, evidence, and what is closed.

Reads and hashes; copies nothing and signs nothing.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.bundle.dossier import Node, SignedEvidence, Tree
from dutchdoor.bundle.formats import require_safe
from dutchdoor.bundle.inside import WEIGHTS_KIND, require_placed
from dutchdoor.bundle.leaks import Closed
from dutchdoor.bundle.parts import (
    Part,
    closed_parts,
    component_ids,
    family_parts,
    member_parts,
    open_members,
    variant_id,
)
from dutchdoor.bundle.tree import digest_files, family_root
from dutchdoor.core import BundleError, Channel, Verdict, canonical_json, digest_tree
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.public import public_form
from dutchdoor.family.weights import variant_digest
from dutchdoor.policy.decide import closings
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.grounds import Grounds
from dutchdoor.policy.rules import PARAMETERS

Salts = Callable[[str], bytes]  # from a digest to the salt that was made for it
CACHED_DIGESTS = "digests.json"  # in the cache folder; the evidence room writes the same file


@dataclass(frozen=True)
class Release:
    """All that the bundles of one release have in common."""

    loaded: LoadedFamily
    decision: Decision  # as it is published: see `published`
    tree: Tree
    manifest: bytes
    evidence: tuple[SignedEvidence, ...]
    salts: Salts
    signer: SigningKey
    made_at: str
    grounds: Grounds | UnsetType
    closed: tuple[Closed, ...]
    public: tuple[Path, ...]
    shared: tuple[Path, ...]
    parts: Mapping[str | None, tuple[Part, ...]] = field(default_factory=dict)


async def gather(
    loaded: LoadedFamily,
    decision: Decision,
    signer: SigningKey,
    salts: Salts,
    evidence: Sequence[bytes],
    cache: Path | None,
    made_at: str,
    grounds: Grounds | UnsetType = UNSET,
) -> Release:
    """Everything that is to be bound, read from the family's folder.

    Raises BundleError or WeightsError for what may not leave, EvidenceError for evidence that is no envelope.
    """
    cached = None if cache is None else cache / CACHED_DIGESTS
    opened = open_members(loaded, decision)
    await asyncio.to_thread(require_placed, loaded, decision, opened)
    parts: dict[str | None, tuple[Part, ...]] = {
        member.name: tuple(member_parts(loaded, decision, member)) for member in opened
    }
    parts[None] = tuple(family_parts(loaded, decision))
    for part in _all(parts):
        for name, path in part.files.items():
            await asyncio.to_thread(require_safe, part.at + name, path)
    form = await asyncio.to_thread(public_form, loaded, closings(decision), salts, cached)
    nodes = await _nodes(loaded, decision, parts, form["closed"], cached)
    held = {node.id: node.digest or node.commitment or "" for node in nodes}
    root = family_root(loaded.family.family, loaded.family.version, held)
    references = (loaded.reference_path(name) for name in loaded.family.references)
    return Release(
        loaded=loaded,
        decision=published(loaded, decision),
        tree=Tree(root=root, nodes=tuple(nodes)),
        manifest=msgspec.json.format(canonical_json(form), indent=2) + b"\n",
        evidence=tuple(signed_evidence(envelope) for envelope in evidence),
        salts=salts,
        signer=signer,
        made_at=made_at,
        grounds=grounds,
        closed=tuple(closed_parts(loaded, decision)),
        public=tuple(file for path in references if path for file in _weights_below(path)),
        shared=tuple(path for part in _all(parts) if part.variant for path in part.files.values()),
        parts=parts,
    )


def _all(parts: Mapping[str | None, Sequence[Part]]) -> Iterator[Part]:
    for several in parts.values():
        yield from several


async def _nodes(
    loaded: LoadedFamily,
    decision: Decision,
    parts: Mapping[str | None, Sequence[Part]],
    closed: Sequence[Mapping[str, str | None]],
    cached: Path | None,
) -> list[Node]:
    """Every component of the family: open ones with their digest, closed ones with a commitment."""
    nodes = []
    for part in _all(parts):
        if part.variant is not None:
            digest = await asyncio.to_thread(variant_digest, part.source, cached)
        else:
            digest = digest_tree(await digest_files(part.files))
        nodes.append(_open_node(part, digest))
    rows = list(closed)
    for member in loaded.family.members:
        for variant in member.variants:
            row = _take(rows, member.name, WEIGHTS_KIND, variant.id)
            if row is not None:
                nodes.append(_closed_node(variant_id(member.name, variant.id), row, member.license))
    for name, decided in zip(component_ids(decision), decision.components, strict=True):
        row = None if decided.open else _take(rows, decided.member, decided.kind, None)
        if row is not None:
            nodes.append(_closed_node(name, row, None))
    if rows:  # the manifest closes what the tree does not know: nothing may be bound to half a truth
        raise BundleError(f"the decision does not say why {rows[0]['kind']} of {rows[0]['member']} is closed")
    return nodes


def _take(
    rows: list[Mapping[str, str | None]], member: str | None, kind: str, variant: str | None
) -> Mapping[str, str | None] | None:
    for row in rows:
        if (row["member"], row["kind"], row.get("variant")) == (member, kind, variant):
            rows.remove(row)
            return row
    return None


def _open_node(part: Part, digest: str) -> Node:
    return Node(
        id=part.id,
        member=part.member,
        kind=part.kind,
        variant=part.variant,
        license=part.license,
        digest=digest,
    )


def _closed_node(name: str, row: Mapping[str, str | None], license: str | None) -> Node:
    return Node(
        id=name,
        member=row["member"],
        kind=row["kind"] or "",
        variant=row.get("variant"),
        license=license,
        commitment=row["commitment"],
        closed_by=row["closed_by"] or "choice",
        because=row["because"],
    )


def published(loaded: LoadedFamily, decision: Decision) -> Decision:
    """The decision as it may be read by all: a closed component has no path, closed weights no exact size."""
    members = {
        name: msgspec.structs.replace(
            member,
            channels={
                channel: msgspec.structs.replace(
                    each, verdicts=tuple(_sizeless(loaded, decision, name, v) for v in each.verdicts)
                )
                for channel, each in member.channels.items()
            },
        )
        for name, member in decision.members.items()
    }
    components = tuple(
        each if each.open else msgspec.structs.replace(each, path=None) for each in decision.components
    )
    return msgspec.structs.replace(decision, members=members, components=components)


def _sizeless(loaded: LoadedFamily, decision: Decision, member: str, verdict: Verdict) -> Verdict:
    """A verdict that counts no parameters but those of weights that leave, which anyone can count.

    A ratio or difference is left out too: with it and the open count, the closed one is a line of arithmetic.
    """
    if verdict.measure != PARAMETERS or verdict.value is None:
        return verdict
    if decision.members[member].channels[Channel.DOWNLOAD].open:
        own = [loaded.facts(member, variant.id) for variant in loaded.member(member).variants]
        if verdict.value in [facts.parameters for facts in own if facts is not None]:
            return verdict
    return msgspec.structs.replace(verdict, value=None, lower=None, upper=None)


def _weights_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted([*path.glob("*.safetensors"), *path.glob("*.gguf"), *path.glob("*.json")])


def signed_evidence(envelope: bytes) -> SignedEvidence:
    """Evidence with its maker's signature, out of its envelope. Raises EvidenceError or BundleError."""
    payload, _, key_id, signature = dsse.opened(envelope)
    evidence = msgspec.json.decode(payload, type=Evidence)
    if canonical_json(evidence) != payload:
        raise BundleError(
            f"evidence of {evidence.subject.member} on {evidence.conditions.suite} is not in canonical form",
            hint="measure it again with `dutchdoor vet`",
        )
    return SignedEvidence(evidence=evidence, keyid=key_id, sig=base64.b64encode(signature).decode())
