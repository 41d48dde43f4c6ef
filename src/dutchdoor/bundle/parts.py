"""The parts of a family as a decision divides them: what leaves and where it will lie, and what stays.

Reads names and links only. Decides nothing: every part is open or closed because the decision says so.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dutchdoor.bundle.formats import folder_files
from dutchdoor.bundle.inside import WEIGHTS_KIND, files_inside
from dutchdoor.bundle.layout import COMPONENTS, VARIANTS
from dutchdoor.bundle.leaks import Closed
from dutchdoor.core import BundleError, Channel, VerdictKind
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Component, Member
from dutchdoor.family.weights import variant_files
from dutchdoor.policy.decision import ComponentDecision, Decision


@dataclass(frozen=True)
class Part:
    """An open component: where it will lie in its bundle (`at`, then each name), and its files now."""

    id: str
    member: str | None
    kind: str
    variant: str | None
    license: str | None
    at: str
    files: Mapping[str, Path]
    source: Path


def open_members(loaded: LoadedFamily, decision: Decision) -> list[Member]:
    """The members whose download is open, in the manifest's order."""
    return [
        member
        for member in loaded.family.members
        if decision.members[member.name].channels[Channel.DOWNLOAD].open
    ]


def member_parts(loaded: LoadedFamily, decision: Decision, member: Member) -> list[Part]:
    """What leaves with an open member: its variants, the first at the root, and its own open components.

    Raises BundleError or WeightsError for weights that are not here, or may not leave in their form.
    """
    parts = [_variant(loaded, member, index) for index in range(len(member.variants))]
    parts += _components(loaded, decision, member.name, parts)
    return parts


def family_parts(loaded: LoadedFamily, decision: Decision) -> list[Part]:
    """What leaves with the family: its own open components."""
    return _components(loaded, decision, None, [])


def closed_parts(loaded: LoadedFamily, decision: Decision) -> Iterator[Closed]:
    """Everything that is closed and on this machine, for the leak check."""
    for member in loaded.family.members:
        if decision.members[member.name].channels[Channel.DOWNLOAD].open:
            continue
        for variant in member.variants:
            path = loaded.weights_path(member.name, variant.id)
            if path is not None:
                label = f"{member.name}'s weights ({variant.id})"
                yield Closed(label, WEIGHTS_KIND, variant_files(path), weights=True)
    for decided in decision.components:
        if not decided.open:
            label = f"{decided.kind} of {decided.member or 'the family'}"
            yield Closed(
                label,
                decided.kind,
                dict(_closed_files(loaded, decision, decided)),
                follows=_follows(loaded, decided),
            )


def component_ids(decision: Decision) -> list[str]:
    """An id for each of the decision's components, whatever is open: owner/kind, and a count from 2 on."""
    seen: Counter[str] = Counter()
    found = []
    for each in decision.components:
        name = f"{each.member or '_family'}/{each.kind}"
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}/{seen[name]}")
    return found


def variant_id(member: str, variant: str) -> str:
    """The id of a variant in the family's tree."""
    return f"{member}/{WEIGHTS_KIND}/{variant}"


def _variant(loaded: LoadedFamily, member: Member, index: int) -> Part:
    variant = member.variants[index]
    path = loaded.weights_path(member.name, variant.id)
    if path is None:
        raise BundleError(
            f"the weights of {member.name}/{variant.id} are not on this machine",
            hint="download them and name the folder in family.yaml",
        )
    if index == 0 and variant.adapter is not None:
        raise BundleError(
            f"the first variant of {member.name} is an adapter, which no tool loads alone",
            hint="list the variant that it lies `on` first",
        )
    return Part(
        id=variant_id(member.name, variant.id),
        member=member.name,
        kind=WEIGHTS_KIND,
        variant=variant.id,
        license=member.license,
        at="" if index == 0 else f"{VARIANTS}/{variant.id}/",
        files={name: file.resolve() for name, file in variant_files(path).items()},
        source=path,
    )


def _components(
    loaded: LoadedFamily, decision: Decision, member: str | None, variants: Sequence[Part]
) -> list[Part]:
    parts: list[Part] = []
    for name, decided in zip(component_ids(decision), decision.components, strict=True):
        if decided.open and decided.member == member and decided.path is not None:
            parts.append(_component(loaded, name, decided, variants))
    return parts


def _component(loaded: LoadedFamily, name: str, decided: ComponentDecision, variants: Sequence[Part]) -> Part:
    assert decided.path is not None
    path = loaded.resolve(decided.path)
    files = dict(folder_files(path))
    if not files:
        raise BundleError(f"{path}, the {decided.kind} of {decided.member or 'the family'}, holds no files")
    at = ""
    for variant in variants:  # a tokenizer that lies in the model's folder leaves once, with the model
        names = {file: held for held, file in variant.files.items()}
        if all(file in names for file in files.values()):
            files = {names[file]: file for file in files.values()}
            at = variant.at
            break
    else:
        number = name.rsplit("/", 1)[1]
        folder = decided.kind + (f"-{number}" if number.isdigit() else "")
        inside = "" if path.is_file() else f"{path.resolve().name}/"
        at = f"{COMPONENTS}/{folder}/{inside}"
    return Part(
        id=name,
        member=decided.member,
        kind=decided.kind,
        variant=None,
        license=_stated(loaded, decided),
        at=at,
        files=files,
        source=path,
    )


def _stated(loaded: LoadedFamily, decided: ComponentDecision) -> str | None:
    """The licence of a component: its own, else its member's."""
    whose = None if decided.member is None else loaded.member(decided.member)
    own = _own(loaded, decided)
    return (own.license if own else None) or (whose.license if whose is not None else None)


def _own(loaded: LoadedFamily, decided: ComponentDecision) -> Component | None:
    """The row of the manifest; null for what `serve` names and nobody listed."""
    components = (
        loaded.family.components if decided.member is None else loaded.member(decided.member).components
    )
    return next((c for c in components if (c.kind, c.path) == (decided.kind, decided.path)), None)


def _follows(loaded: LoadedFamily, decided: ComponentDecision) -> bool:
    """Whether nothing closes a component but the download that it belongs to."""
    own = _own(loaded, decided)
    gates = [verdict for verdict in decided.verdicts if verdict.effect == "gate"]
    passed = all(verdict.verdict is VerdictKind.PASS for verdict in gates)
    return own is not None and own.intent == "open" and passed


def _closed_files(
    loaded: LoadedFamily, decision: Decision, decided: ComponentDecision
) -> Iterator[tuple[str, Path]]:
    if decided.path is not None:
        yield from _every_file(loaded.resolve(decided.path))
    elif decided.member is not None:
        yield from files_inside(loaded, [loaded.member(decided.member)], decided.kind)
    else:  # the family's own without a path is that of every member that leaves
        yield from files_inside(loaded, open_members(loaded, decision), decided.kind)


def _every_file(path: Path) -> Iterator[tuple[str, Path]]:
    """All files of a closed component, hidden ones too: what stays is more than what would leave."""
    if path.is_file():
        yield path.name, path.resolve()
        return
    for found in sorted(path.rglob("*")):
        if found.is_file():
            yield found.relative_to(path).as_posix(), found.resolve()
