"""Makes the bundles of a release: copies what the decision opens, checks it for leaks, signs it.

All bundles are made beside their places first, and put there only when every one of them is whole and
clean, so that a fault leaves what was there before. Refuses members whose download is closed, bytes other
than those that the evidence is about, and to overwrite a folder that it did not make.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor import __version__
from dutchdoor.bundle.dossier import Dossier, Node, Offer, Tree, is_about, now, statement
from dutchdoor.bundle.gather import Release, Salts, gather
from dutchdoor.bundle.layout import DOSSIER, FAMILY_BUNDLE, MANIFEST, OFFER, Finding
from dutchdoor.bundle.leaks import find_leaks
from dutchdoor.bundle.parts import Part, open_members
from dutchdoor.bundle.place import family_of, put, require_ours
from dutchdoor.bundle.seal import seal, write
from dutchdoor.bundle.texts import family_texts, member_texts
from dutchdoor.bundle.tree import Copy, Progress, copy_files, no_progress
from dutchdoor.bundle.verify import verify
from dutchdoor.core import BundleError, Channel, Exit, UsageError, canonical_json, digest_tree
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Member
from dutchdoor.family.public import commitment
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.grounds import Grounds

Say = Callable[[str], None]


class NothingLeavesError(BundleError):
    """No member that was asked for has an open download. `exit_code` is 3 where that isn't known, else 10."""

    def __init__(self, message: str, *, hint: str | None, exit_code: Exit) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


async def pack(
    loaded: LoadedFamily,
    decision: Decision,
    out: Path,
    signer: SigningKey,
    *,
    salts: Salts,
    evidence: Sequence[bytes] = (),
    grounds: Grounds | UnsetType = UNSET,
    cache: Path | None = None,
    members: Sequence[str] = (),
    made_at: str | None = None,
    progress: Progress = no_progress,
    say: Say = lambda text: None,
) -> list[Path]:
    """Make a bundle of each member whose download is open (or of `members`), and of what is the family's.

    `evidence` are the signed envelopes behind the decision, `grounds` is all else that it rested on, `salts`
    gives the salt of a digest. Returns the folders `out`/NAME. Raises NothingLeavesError when a member asked
    for, or every member, is closed; BundleError for a leak, a missing licence, a foreign folder in the way, or
    bytes other than those that were measured.
    """
    try:
        wanted = chosen(loaded, decision, members)
    except NothingLeavesError:
        if members:  # who asks for one member has not asked to touch the others
            for place in stale(loaded, decision, out):
                say(f"{place} is from an earlier pack: it may no longer be given away")
        else:
            _withdraw(loaded, decision, out, say)
        raise
    release = await gather(loaded, decision, signer, salts, evidence, cache, made_at or now(), grounds)
    names: list[str | None] = [member.name for member in wanted]
    if not members and release.parts[None]:
        names.append(None)
    for name in names:
        require_ours(out / (name or FAMILY_BUNDLE), loaded.family.family)
    made: dict[str | None, Path] = {}
    try:
        await asyncio.to_thread(out.mkdir, parents=True, exist_ok=True)
        for name in names:
            made[name] = Path(
                await asyncio.to_thread(tempfile.mkdtemp, dir=out, prefix=f".{name or FAMILY_BUNDLE}-")
            )
            await _stage(release, name, made[name], progress)
        paths = [put(folder, out / (name or FAMILY_BUNDLE)) for name, folder in made.items()]
    except OSError as error:
        raise BundleError(f"can't write {error.filename or out}: {error.strerror}") from error
    finally:
        for folder in made.values():
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    _withdraw(loaded, decision, out, say)
    return paths


def chosen(loaded: LoadedFamily, decision: Decision, members: Sequence[str]) -> list[Member]:
    """The members to pack. Raises UsageError for an unknown one, NothingLeavesError for a closed one."""
    names = [member.name for member in loaded.family.members]
    if unknown := [name for name in members if name not in names]:
        raise UsageError(f"there is no member {unknown[0]!r}", hint=f"members: {', '.join(names)}")
    opened = open_members(loaded, decision)
    asked = members or names
    shut = [name for name in asked if name not in {member.name for member in opened}]
    if (members and shut) or len(shut) == len(asked):
        raise _refusal(decision, shut)
    return [member for member in opened if member.name in asked]


def _refusal(decision: Decision, shut: Sequence[str]) -> NothingLeavesError:
    downloads = {name: decision.members[name].channels[Channel.DOWNLOAD] for name in shut}
    unknown = [name for name, each in downloads.items() if each.closed_by in ("inconclusive", "no-rule")]
    words = [
        f"{name} is closed by {each.closed_by}: {each.because or 'no reason given'}"
        for name, each in downloads.items()
    ]
    hint = "`dutchdoor vet` measures what is missing; `dutchdoor decide` shows each rule" if unknown else None
    return NothingLeavesError(
        "nothing was packed: " + "; ".join(words),
        hint=hint or "`dutchdoor decide` shows each rule with its value and bound",
        exit_code=Exit.INCONCLUSIVE if unknown else Exit.AGAINST,
    )


async def _stage(release: Release, name: str | None, folder: Path, progress: Progress) -> None:
    """Make one bundle in an empty folder. Raises BundleError, and then nothing of it counts."""
    loaded, family = release.loaded, release.loaded.family
    parts = release.parts[name]
    copies = {
        part.at + file: Copy(path, folder / (part.at + file))
        for part in parts
        for file, path in part.files.items()
    }
    digests = await copy_files(copies, progress=progress)
    for part in parts:
        _require_measured(release, part, digests)
    nodes = tuple(_placed(node, {part.id: part for part in parts}) for node in release.tree.nodes)
    texts = member_texts(release, name) if name is not None else family_texts(release, nodes)
    for file, text in texts.items():
        if file in digests:
            raise BundleError(
                f"{file} would lie where a component puts its own", hint="rename the component's file"
            )
        digests[file] = await asyncio.to_thread(write, folder / file, text.encode())
    digests[MANIFEST] = await asyncio.to_thread(write, folder / MANIFEST, release.manifest)
    member = loaded.member(name) if name is not None else None
    dossier = Dossier(
        family=family.family,
        version=family.version,
        member=name,
        publisher=family.publisher,
        license=member.license if member else None,
        tree=Tree(root=release.tree.root, nodes=nodes),
        decision=release.decision,
        evidence=release.evidence,
        grounds=release.grounds,
        apart=(OFFER,) if member else (),
        made_at=release.made_at,
        made_by=f"dutchdoor {__version__}",
    )
    await _require_clean(release, name, folder, digests, dossier)
    offer = _offer(release, member) if member else None
    await seal(folder, digests, dossier, offer, release.signer)
    report = await verify(folder, [release.signer.public])
    if report.findings:  # what we'd hand out must pass what others run on it
        first: Finding = report.findings[0]
        raise BundleError(f"the bundle of {name or 'the family'} does not verify: {first.file}: {first.what}")
    await asyncio.to_thread(folder.chmod, 0o755)  # a temporary folder is private


def _require_measured(release: Release, part: Part, digests: Mapping[str, str]) -> None:
    """The bytes that were copied are those in the tree, and those that the evidence is about."""
    digest = digest_tree({file: digests[part.at + file] for file in part.files})
    node = next(node for node in release.tree.nodes if node.id == part.id)
    if digest != node.digest:
        raise BundleError(
            f"{part.source} changed while it was packed", hint="try again when nothing writes to it"
        )
    if part.variant is None:
        return
    family = release.loaded.family.family
    held = commitment("variant", family, f"{part.member}/{part.variant}", release.salts(digest), digest)
    member = release.loaded.member(part.member or "")
    for signed in release.evidence:
        about = is_about(
            signed.evidence, member.name, part.variant, elsewhere=member.serve.target is not None
        )
        if about and signed.evidence.subject.commitment != held:
            raise BundleError(
                f"the evidence of {part.member}/{part.variant} is about other bytes than {part.source} holds",
                hint="measure these with `dutchdoor vet`, then decide again",
            )


def _placed(node: Node, here: Mapping[str, Part]) -> Node:
    part = here.get(node.id)
    if part is None:
        return node
    return msgspec.structs.replace(node, at=part.at, files=tuple(sorted(part.files)))


def _offer(release: Release, member: Member) -> Offer:
    family = release.loaded.family
    caps = {name: cap for name, cap in family.promises.price_cap.items() if name == member.name}
    return Offer(
        family=family.family,
        version=family.version,
        member=member.name,
        root=release.tree.root,
        price=member.price,
        promises=msgspec.structs.replace(family.promises, price_cap=caps),
        made_at=release.made_at,
    )


async def _require_clean(
    release: Release, name: str | None, folder: Path, digests: Mapping[str, str], dossier: Dossier
) -> None:
    leaks = await find_leaks(
        {file: folder / file for file in digests},
        release.closed,
        digests=digests,
        shared=release.shared,
        public=release.public,
        texts={DOSSIER: canonical_json(statement(dossier, digests)).decode()},
    )
    if leaks:
        rows = "".join(f"\n  {leak.file}: {leak.component} ({leak.how})" for leak in leaks[:20])
        raise BundleError(
            f"the bundle of {name or 'the family'} would hold closed content; nothing was packed:{rows}",
            hint="take it out of the open part, or open the component in family.yaml",
        )


def stale(loaded: LoadedFamily, decision: Decision, out: Path) -> list[Path]:
    """Bundles of this family from an earlier pack whose members are closed now."""
    opened = {member.name for member in open_members(loaded, decision)}
    places = [out / member.name for member in loaded.family.members if member.name not in opened]
    if not any(each.open and each.member is None for each in decision.components):
        places.append(out / FAMILY_BUNDLE)
    return [place for place in places if place.is_dir() and family_of(place) == loaded.family.family]


def _withdraw(loaded: LoadedFamily, decision: Decision, out: Path, say: Say) -> None:
    """Take away what an earlier pack left of what is closed now: a closed member is in no bundle.

    Raises BundleError when one can't be taken away: whoever publishes the folder must know.
    """
    for place in stale(loaded, decision, out):
        try:
            shutil.rmtree(place)
        except OSError as error:  # also a link, which is never followed
            raise BundleError(
                f"can't remove {place}, which was packed earlier and is closed now: {error.strerror or error}",
                hint="remove it by hand: it may no longer be given away",
            ) from error
        say(f"removed {place}: packed earlier, closed now; copies that others have can't be recalled")
