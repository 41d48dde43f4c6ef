"""Does a bundle hold what its dossier says? Offline, from the folder and the trusted keys alone.

`verify` reads a folder in place; `examine` judges what was read and does no I/O, so that a bundle that is
being copied or pulled is judged by the bytes that were written. What can't be shown to hold is a finding.
Says nothing about whether the decision was right: it shows what was decided, and from what.
"""

import asyncio
import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from dutchdoor.bundle.dossier import (
    OFFER_PAYLOAD,
    STATEMENT_PAYLOAD,
    Dossier,
    Offer,
    Statement,
    is_about,
    read_offer,
    read_statement,
)
from dutchdoor.bundle.layout import (
    APART,
    CARD,
    DOSSIER,
    LICENCE,
    MANIFEST,
    OFFER,
    SIGNER,
    Finding,
    clashes,
    listing,
    shown,
    unsafe_name,
)
from dutchdoor.bundle.tree import ALGORITHM, Progress, digest_files, family_root, no_progress
from dutchdoor.core import BundleError, Channel, DutchdoorError, canonical_json, digest_bytes, digest_tree
from dutchdoor.evidence import dsse
from dutchdoor.evidence.signing_keys import PublicKey, parse_public
from dutchdoor.evidence.store import PAYLOAD_TYPE as EVIDENCE_PAYLOAD
from dutchdoor.family.public import commitment

READ_WHOLE = (DOSSIER, OFFER, SIGNER, MANIFEST)  # our own files are judged by content, all others by digest
LARGEST_OURS = 512 << 20  # bytes; a dossier with a million outcomes has about 100 MB
BROKEN_SIGNER = "no readable public key"


class Verdict(StrEnum):
    VALID = "valid"
    UNKNOWN_SIGNER = "unknown-signer"
    BROKEN = "broken"


@dataclass(frozen=True)
class Contents:
    """What was read of a bundle: all files by digest, our own small ones whole, and what may not be there."""

    digests: Mapping[str, str]
    ours: Mapping[str, bytes]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Report:
    """What came out. `dossier` and `offer` are null where their signature was not shown to hold."""

    folder: Path
    findings: tuple[Finding, ...]
    signer: str | None = None  # a key id
    signer_source: str | None = None  # where the trusted key was found
    trusted: bool = False
    dossier: Dossier | None = None
    offer: Offer | None = None
    files: int = 0
    makers: frozenset[str] = frozenset()  # key ids whose signature under evidence was checked, and holds

    @property
    def verdict(self) -> Verdict:
        """Valid only if nothing was found, a known key signed, and that key is trusted."""
        if self.findings or self.dossier is None:
            return Verdict.BROKEN
        return Verdict.VALID if self.trusted else Verdict.UNKNOWN_SIGNER


async def verify(folder: Path, trusted: Sequence[PublicKey], *, progress: Progress = no_progress) -> Report:
    """Check a bundle where it lies.

    Raises BundleError when the folder is no bundle at all, or can't be read.
    """
    return examine(folder, await read_contents(folder, progress=progress), trusted)


async def read_contents(folder: Path, *, progress: Progress = no_progress) -> Contents:
    """Read and hash everything below `folder`. Raises BundleError when it is no bundle."""
    require_bundle(folder)
    try:
        found = await asyncio.to_thread(listing, folder)
    except OSError as error:
        raise BundleError(f"can't read {error.filename or folder}: {error.strerror}") from error
    ours = {}
    for name in READ_WHOLE:
        if name in found.files:
            ours[name] = await asyncio.to_thread(read_small, found.files[name])
    digests = {name: digest_bytes(data) for name, data in ours.items()}
    rest = {name: path for name, path in found.files.items() if name not in ours}
    digests |= await digest_files(rest, progress=progress)
    return Contents(digests, ours, found.findings)


def looks_like_bundle(folder: Path) -> bool:
    """Whether a folder has a dossier; says nothing about what it is worth."""
    return (folder / DOSSIER).is_file()


def require_bundle(folder: Path) -> None:
    """Raises BundleError, with a hint, unless the folder looks like a bundle of ours."""
    if not folder.exists():
        raise BundleError(f"{folder} does not exist", hint="name the folder that `dutchdoor pack` wrote")
    if not folder.is_dir() or not any((folder / name).exists() for name in (DOSSIER, MANIFEST, SIGNER)):
        inside = (
            sorted(path.parent.parent.name for path in folder.glob(f"*/{DOSSIER}")) if folder.is_dir() else []
        )
        hint = f"it holds bundles: {', '.join(str(folder / name) for name in inside)}" if inside else None
        raise BundleError(
            f"{folder} is no bundle: it has no {DOSSIER}",
            hint=hint or "`dutchdoor pack FAMILY.yaml --out dist` makes bundles",
        )


def read_small(path: Path) -> bytes:
    """One of our own files, whole. Raises BundleError when it is too large to be one."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_OURS + 1)
    except OSError as error:
        raise BundleError(f"can't read {path}: {error.strerror}") from error
    if len(data) > LARGEST_OURS:
        raise BundleError(f"{path} is larger than {LARGEST_OURS} bytes")
    return data


def examine(folder: Path, contents: Contents, trusted: Sequence[PublicKey]) -> Report:
    """Judge what was read. Never raises for what a bundle holds: everything wrong is a finding."""
    findings = list(contents.findings)
    known, trouble = _known(contents)
    opened = _open(DOSSIER, STATEMENT_PAYLOAD, contents, trusted, known)
    if isinstance(opened, Finding):
        findings.append(trouble if trouble and opened.what == BROKEN_SIGNER else opened)
        return Report(folder, tuple(findings), files=len(contents.digests))
    try:
        statement = read_statement(opened.payload)
    except BundleError as error:
        return Report(folder, (*findings, Finding(file=DOSSIER, what=error.message)), signer=opened.key_id)
    findings += _files(statement, contents)
    findings += _bindings(statement, opened.key_id, contents)
    forged, makers = _evidence(statement.predicate, trusted, known)
    findings += forged
    offer = _offer(statement.predicate, contents, trusted, known, opened.key_id)
    if isinstance(offer, Finding):
        findings.append(offer)
    key = next((key for key in trusted if key.key_id == opened.key_id), None)
    return Report(
        folder,
        tuple(dict.fromkeys(findings)),
        signer=opened.key_id,
        signer_source=key.source if key else None,
        trusted=opened.trusted,
        dossier=statement.predicate,
        offer=None if isinstance(offer, Finding) else offer,
        files=len(contents.digests),
        makers=makers,
    )


def _known(contents: Contents) -> tuple[tuple[PublicKey, ...], Finding | None]:
    """The key that came with the bundle: it shows that a signature holds, never that its owner is trusted."""
    if SIGNER not in contents.ours:
        return (), Finding(file=SIGNER, what="missing")
    try:
        return (parse_public(contents.ours[SIGNER], SIGNER),), None
    except DutchdoorError as error:
        return (), Finding(file=SIGNER, what=error.message)


def own_signer(folder: Path) -> tuple[PublicKey, ...]:
    """The key that came with a bundle, where it can be read: to check signatures with, never to trust."""
    try:
        return (parse_public(read_small(folder / SIGNER), SIGNER),)
    except DutchdoorError:
        return ()


def _open(
    name: str, payload_type: str, contents: Contents, trusted: Sequence[PublicKey], known: Sequence[PublicKey]
) -> dsse.Checked | Finding:
    """The checked envelope of one of our files, or why it can't be believed."""
    if name not in contents.ours:
        return Finding(file=name, what="missing")
    try:
        checked = dsse.check(contents.ours[name], trusted, known=known, payload_type=payload_type)
    except DutchdoorError as error:
        return Finding(file=name, what=error.message)
    if not checked.verified:
        what = (
            BROKEN_SIGNER
            if not known
            else f"signed by {shown(checked.key_id)}, which is not the key in {SIGNER}"
        )
        return Finding(file=name, what=what)
    return checked


def _files(statement: Statement, contents: Contents) -> Iterator[Finding]:
    """Every file listed is there and equal, and no other file is there."""
    listed: dict[str, str] = {}
    for subject in statement.subject:
        if subject.name in listed:
            yield Finding(file=shown(subject.name), what="listed twice")
        if reason := unsafe_name(subject.name):
            yield Finding(file=shown(subject.name), what=f"its name is refused: {reason}")
        value = subject.digest.get(ALGORITHM)
        if value is None:
            yield Finding(file=shown(subject.name), what=f"listed without {ALGORITHM}")
        listed[subject.name] = f"{ALGORITHM}:{value}"
    for first, second in clashes(listed):
        yield Finding(
            file=shown(second), what=f"the same as {shown(first)} where a file system knows no case"
        )
    for name, digest in sorted(listed.items()):
        if name in APART or name == DOSSIER:
            yield Finding(file=name, what="listed, though it is signed apart")
        elif name not in contents.digests:
            yield Finding(file=shown(name), what="missing")
        elif contents.digests[name] != digest:
            yield Finding(
                file=shown(name), what=f"changed: it is {contents.digests[name]}, signed was {digest}"
            )
    for name in sorted(set(contents.digests) - set(listed) - set(statement.predicate.apart) - {DOSSIER}):
        yield Finding(file=shown(name), what="not listed in the dossier: added after signing")


def _bindings(statement: Statement, key_id: str, contents: Contents) -> Iterator[Finding]:
    """The statement holds together: licence, card and manifest are bound, tree and decision agree with it."""
    dossier = statement.predicate
    listed = {subject.name: f"{ALGORITHM}:{subject.digest.get(ALGORITHM)}" for subject in statement.subject}
    for name in (CARD, LICENCE, MANIFEST, SIGNER):
        if name not in listed:
            yield Finding(file=name, what="not bound by the dossier")
    if SIGNER in contents.ours:
        try:
            if parse_public(contents.ours[SIGNER], SIGNER).key_id != key_id:
                yield Finding(file=SIGNER, what="not the key that signed the dossier")
        except DutchdoorError as error:
            yield Finding(file=SIGNER, what=error.message)
    yield from _tree(dossier, listed)
    yield from _manifest(dossier, contents)
    if (dossier.family, dossier.version) != (dossier.decision.family, dossier.decision.version):
        yield Finding(file=DOSSIER, what="its decision is that of another family or version")
    if not set(dossier.apart) <= APART:
        yield Finding(file=DOSSIER, what="it leaves files out that must be listed")
    if dossier.member is not None:
        decided = dossier.decision.members.get(dossier.member)
        download = decided.channels.get(Channel.DOWNLOAD) if decided else None
        if download is None or not download.open:
            yield Finding(
                file=DOSSIER, what=f"its own decision does not open the download of {dossier.member}"
            )
        if not dossier.license:
            yield Finding(file=DOSSIER, what="it names no licence")


def _tree(dossier: Dossier, listed: Mapping[str, str]) -> Iterator[Finding]:
    """The root follows from the nodes, and each node that lies here from its files."""
    nodes = {node.id: node.digest or node.commitment or "" for node in dossier.tree.nodes}
    if len(nodes) != len(dossier.tree.nodes):
        yield Finding(file=DOSSIER, what="its tree holds a component twice")
    if family_root(dossier.family, dossier.version, nodes) != dossier.tree.root:
        yield Finding(file=DOSSIER, what="the root of its tree does not follow from its components")
    for node in dossier.tree.nodes:
        if (node.digest is None) != (node.closed_by is not None) or (node.digest and node.commitment):
            yield Finding(file=DOSSIER, what=f"{shown(node.id)} is not just one of open and closed")
        if node.files is None:
            continue
        held = {name: listed.get((node.at or "") + name, "") for name in node.files}
        if digest_tree(held) != node.digest:
            yield Finding(
                file=shown(node.at or "") or ".", what=f"its files are not the component {shown(node.id)}"
            )


class _Row(msgspec.Struct, frozen=True):
    """A row of the manifest's `closed`; of the rest nothing is read here."""

    commitment: str | None


class _Variant(msgspec.Struct, frozen=True):
    id: str
    digest: str | None = None
    commitment: str | None = None
    salt: str | None = None


class _Serve(msgspec.Struct, frozen=True):
    elsewhere: bool = False
    commitment: str | None = None


class _Intent(msgspec.Struct, frozen=True):
    download: bool = True
    api: bool = True
    download_after: str | None = None


class _Member(msgspec.Struct, frozen=True):
    name: str
    variants: tuple[_Variant, ...] = ()
    serve: _Serve | None = None
    intent: _Intent = _Intent()
    license: str | None = None
    role: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What the public form must say for the dossier to hold; unknown fields are the family room's."""

    family: str
    version: str
    members: tuple[_Member, ...]
    closed: tuple[_Row, ...]


def _manifest(dossier: Dossier, contents: Contents) -> Iterator[Finding]:
    """The public manifest is of this release, and commits to the closed components of the tree alone.

    It also ties the evidence to the bytes that are here.
    """
    if MANIFEST not in contents.ours:
        return  # reported as missing
    try:
        manifest = msgspec.json.decode(contents.ours[MANIFEST], type=Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        yield Finding(file=MANIFEST, what="no public form of a family")
        return
    if (manifest.family, manifest.version) != (dossier.family, dossier.version):
        yield Finding(file=MANIFEST, what="of another family or version than the dossier")
    closed = {node.commitment for node in dossier.tree.nodes if node.closed_by}
    if {row.commitment for row in manifest.closed} != closed:
        yield Finding(file=MANIFEST, what="its commitments are not those in the dossier's tree")
    digests = {(node.member, node.variant): node.digest for node in dossier.tree.nodes if node.variant}
    for member in manifest.members:
        for variant in member.variants:
            if variant.digest is not None:
                yield from _opening(dossier, member, variant, digests.get((member.name, variant.id)))


def _opening(dossier: Dossier, member: _Member, variant: _Variant, digest: str | None) -> Iterator[Finding]:
    """An open variant's salt opens the commitment under which its evidence was made."""
    name = f"{member.name}/{variant.id}"
    elsewhere = member.serve is not None and member.serve.elsewhere
    if variant.digest != digest:
        yield Finding(file=MANIFEST, what=f"{shown(name)} has another digest than in the dossier")
    try:
        salt = bytes.fromhex(variant.salt or "")
        held = commitment("variant", dossier.family, name, salt, variant.digest or "")
    except ValueError:
        held = None
    if held is None or held != variant.commitment:
        yield Finding(file=MANIFEST, what=f"the commitment to {shown(name)} does not open")
    for signed in dossier.evidence:
        about = is_about(signed.evidence, member.name, variant.id, elsewhere=elsewhere)
        if about and signed.evidence.subject.commitment != held:
            yield Finding(file=DOSSIER, what=f"its evidence of {shown(name)} is about other bytes")


def _evidence(
    dossier: Dossier, trusted: Sequence[PublicKey], known: Sequence[PublicKey]
) -> tuple[list[Finding], frozenset[str]]:
    """What is forged under the name of a key at hand, and the key ids whose signatures were checked and hold.

    Evidence that names any other key is a claim: nobody here can tell who made it.
    """
    forged: list[Finding] = []
    makers: set[str] = set()
    for held in dossier.evidence:
        where = f"{held.evidence.subject.member} on {held.evidence.conditions.suite}"
        try:
            envelope = dsse.envelope(
                canonical_json(held.evidence),
                EVIDENCE_PAYLOAD,
                held.keyid,
                base64.b64decode(held.sig, validate=True),
            )
            checked = dsse.check(envelope, trusted, known=known, payload_type=EVIDENCE_PAYLOAD)
        except (DutchdoorError, ValueError) as error:
            what = f"its evidence of {shown(where)} does not hold: {error}"
            forged.append(Finding(file=DOSSIER, what=what))
        else:
            if checked.verified:
                makers.add(checked.key_id)
    return forged, frozenset(makers)


def _offer(
    dossier: Dossier,
    contents: Contents,
    trusted: Sequence[PublicKey],
    known: Sequence[PublicKey],
    key_id: str,
) -> Offer | Finding | None:
    """The offer, if a trusted key or the dossier's own signed it, and it is of this member and version."""
    if OFFER not in dossier.apart:
        return None  # an offer that lies there is then a file that is not listed
    opened = _open(OFFER, OFFER_PAYLOAD, contents, trusted, known)
    if isinstance(opened, Finding):
        return opened
    if not opened.trusted and opened.key_id != key_id:
        return Finding(file=OFFER, what=f"signed by {opened.key_id}, the dossier by {key_id}")
    try:
        offer = read_offer(opened.payload)
    except BundleError as error:
        return Finding(file=OFFER, what=error.message)
    bound = (offer.family, offer.version, offer.member, offer.root)
    if bound != (dossier.family, dossier.version, dossier.member, dossier.tree.root):
        return Finding(file=OFFER, what=f"of {offer.family} {offer.version} {offer.member}, another bundle's")
    return offer
