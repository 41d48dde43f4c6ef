"""What a decision rested on besides outcomes, so that somebody else can replay it without the family.

Policies whole, intents and licences, the facts about weights that were asked for, the commitments that tie
evidence to a question, keys that rules name, the day. `record` takes it down, `dutchdoor.policy.replay` decides
from it again. Nothing closed is in it: its paths are numbered, its weights have a size class only.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from dutchdoor.core import Channel, EvidenceError, ThreatModel, WeightsError, digest_bytes
from dutchdoor.evidence.record import Evidence, Rung
from dutchdoor.evidence.signing_keys import read_public
from dutchdoor.evidence.subjects import Subjects
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Component, Family, Member, Promises, Reference, Target
from dutchdoor.family.weights import WeightsFacts
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.rules import ATTACK_SET, LoadedPolicy
from dutchdoor.policy.shelf import Shelf
from dutchdoor.policy.timing import told_digests

HERE = "weights"  # stands for weights that are at hand, wherever they lie


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class PolicyText(Row, frozen=True, kw_only=True):
    """A policy byte for byte, with digests and cases of the suites that it names, and the keys (PEM) of its rules."""

    id: str
    text: str
    digests: dict[str, str]  # the attack set's by commitment
    keys: dict[str, str]
    cases: dict[str, dict[str, str | None]]  # by suite: the id of each case → its cluster


class ToldFacts(Row, frozen=True, kw_only=True):
    """What a rule asked of weights. `most` is null where the count has no upper end that may be told."""

    member: str  # or a reference
    variant: str
    at_hand: bool
    fault: str | None = None  # why the headers could not be read
    format: Literal["safetensors", "gguf"] = "safetensors"
    quantised: bool = False
    adapter: bool = False
    least: int = 0  # parameters: equal where the weights leave or are public, else the ends of the size class
    most: int | None = 0


class Missing(Row, frozen=True, kw_only=True):
    """An answer to why there could be no evidence about weights; null: there could."""

    member: str
    variant: str
    why: str | None


class Commitments(Row, frozen=True, kw_only=True):
    """What evidence names its subjects by: weights and targets by MEMBER/VARIANT, serving by member."""

    weights: dict[str, str]
    targets: dict[str, str]
    serve: dict[str, str]


class Grounds(Row, frozen=True, kw_only=True):
    """All that `decide` looked at besides evidence."""

    decided_on: datetime.date  # UTC
    family: Family  # without prices, promises and places; closed paths are numbered
    policies: tuple[PolicyText, ...]
    facts: tuple[ToldFacts, ...]
    missing: tuple[Missing, ...]
    commitments: Commitments
    log: tuple[str, ...]  # lines of the release log about these policies and this evidence
    log_head: str | None  # digest of the log's last line then


Key = tuple[str, str]  # member or reference, variant


@dataclass(frozen=True)
class NotedFamily(LoadedFamily):
    """A family that keeps which weights it was asked about: what a decision did not ask, nobody is told."""

    asked: dict[Key, ToldFacts] = field(default_factory=dict, repr=False, compare=False)

    def facts(self, member: str, variant: str) -> WeightsFacts | None:
        try:
            found = LoadedFamily.facts(self, member, variant)
        except WeightsError as error:
            self.asked[member, variant] = ToldFacts(
                member=member, variant=variant, at_hand=True, fault=error.message
            )
            raise
        self.asked[member, variant] = _told(member, variant, found)
        return found


class NotedShelf:
    """A shelf that keeps what it gave out: the evidence behind a decision, and no other."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self.given: dict[
            tuple[str, str, str], Evidence
        ] = {}  # address, moment, signer where one was asked for
        self.missing: dict[tuple[str, str], str | None] = {}

    def find(
        self, member: str, variant: str, suite: str, suite_digest: str, threat: ThreatModel, rung: Rung | None
    ) -> Evidence | None:
        found = self._shelf.find(member, variant, suite, suite_digest, threat, rung)
        if found is not None:
            self.given[found.address, found.made_at, ""] = found
        return found

    def attested(self, member: str, variant: str, key: Path) -> Evidence | None:
        found = self._shelf.attested(member, variant, key)
        if found is not None:
            self.given[found.address, found.made_at, read_public(key).key_id] = found
        return found

    def why_missing(self, member: str, variant: str) -> str | None:
        why = self.missing[member, variant] = self._shelf.why_missing(member, variant)
        return why


def noted(loaded: LoadedFamily) -> NotedFamily:
    """The same family, about to be decided."""
    return NotedFamily(loaded.family, loaded.folder, loaded.path)


def _told(member: str, variant: str, found: WeightsFacts | None) -> ToldFacts:
    if found is None:
        return ToldFacts(member=member, variant=variant, at_hand=False)
    return ToldFacts(
        member=member,
        variant=variant,
        at_hand=True,
        format=found.format,
        quantised=found.quantised,
        adapter=found.adapter,
        least=found.parameters,
        most=found.parameters,
    )


def record(
    loaded: NotedFamily,
    policies: Sequence[LoadedPolicy],
    decision: Decision,
    subjects: Subjects,
    missing: Mapping[Key, str | None],
    today: datetime.date,
) -> Grounds:
    """Take down what this decision rested on; the log's lines are added by `with_log`.

    Raises EvidenceError for a policy that changed while it was read.
    """
    return Grounds(
        decided_on=today,
        family=_redacted(loaded, policies, decision),
        policies=tuple(_policy(each, subjects) for each in policies),
        facts=tuple(_public(loaded, decision, each) for _, each in sorted(loaded.asked.items())),
        missing=tuple(Missing(member=m, variant=v, why=why) for (m, v), why in sorted(missing.items())),
        commitments=_commitments(loaded, subjects),
        log=(),
        log_head=None,
    )


def _policy(policy: LoadedPolicy, subjects: Subjects) -> PolicyText:
    data = policy.path.read_bytes()
    if digest_bytes(data) != policy.digest:
        raise EvidenceError(f"{policy.path} changed while it was read", hint="try again")
    keys = {}
    for rule in policy.policy.rules:
        if rule.attested_by is not None and (path := policy.key_path(rule.attested_by)) is not None:
            keys[rule.attested_by] = path.read_text("utf-8", errors="replace")
    suites = [name for name in policy.digests if name != ATTACK_SET]
    return PolicyText(
        id=policy.policy.id,
        text=data.decode(),
        digests=told_digests(policy, subjects),
        keys=keys,
        cases={name: dict(policy.cases(name)) for name in suites},
    )


def _public(loaded: LoadedFamily, decision: Decision, told: ToldFacts) -> ToldFacts:
    """As others may read it: of closed weights the size class, as the public form tells it."""
    if told.member in loaded.family.references or told.fault is not None or not told.at_hand:
        return told
    if decision.members[told.member].channels[Channel.DOWNLOAD].open:
        return told
    least, most = size_span(told.least)
    return msgspec.structs.replace(told, least=least, most=most)


def size_span(parameters: int) -> tuple[int, int | None]:
    """The ends of the size class of `dutchdoor.family.weights.size_class`: the most is one below the next."""
    steps = [10**exponent for exponent in (6, 7, 8, 9, 10, 11, 12)]
    below = [each for each in steps if parameters >= each]
    above = [each for each in steps if parameters < each]
    return (below[-1] if below else 1), (above[0] - 1 if above else None)


def _commitments(loaded: LoadedFamily, subjects: Subjects) -> Commitments:
    weights, targets, serve = {}, {}, {}
    for member in loaded.family.members:
        for variant in member.variants:
            name = f"{member.name}/{variant.id}"
            if (held := subjects.weights_commitment(member.name, variant.id)) is not None:
                weights[name] = held
            if (held := subjects.target_commitment(member.name, variant.id)) is not None:
                targets[name] = held
        if (held := subjects.serve_commitment(member.name)) is not None:
            serve[member.name] = held
    for reference in loaded.family.references:
        if (held := subjects.weights_commitment(reference, HERE)) is not None:
            weights[f"{reference}/{HERE}"] = held
    return Commitments(weights=weights, targets=targets, serve=serve)


class _Paths:
    """Open paths as they are, closed ones by number; the same place always has the same name."""

    def __init__(self, loaded: LoadedFamily) -> None:
        self._loaded = loaded
        self._names: dict[Path, str] = {}

    def of(self, path: str | None, *, is_open: bool) -> str | None:
        if path is None:
            return None
        place = self._loaded.resolve(path).resolve()
        closed = f"closed-{len(self._names) + 1}"
        return self._names.setdefault(place, path if is_open else closed)


def _redacted(loaded: LoadedFamily, policies: Sequence[LoadedPolicy], decision: Decision) -> Family:
    paths = _Paths(loaded)
    opened = {(each.member, each.kind, each.path) for each in decision.components if each.open}
    ruled = [rule for each in policies for rule in each.policy.rules if rule.gates == "component"]

    def component(member: str | None, each: Component) -> Component:
        is_open = (member, each.kind, each.path) in opened
        asked = any(not rule.kinds or each.kind in rule.kinds for rule in ruled)
        return msgspec.structs.replace(
            each,
            path=paths.of(each.path, is_open=is_open),
            license=each.license if is_open or asked else None,
        )

    family = loaded.family
    return Family(
        kind=family.kind,
        family=family.family,
        version=family.version,
        publisher=family.publisher,
        references={
            name: Reference(weights=None if loaded.reference_path(name) is None else HERE)
            for name in family.references
        },
        components=tuple(component(None, each) for each in family.components),
        members=tuple(
            _member(each, tuple(component(each.name, c) for c in each.components), paths)
            for each in family.members
        ),
        promises=Promises(),
    )


def _member(member: Member, components: tuple[Component, ...], paths: _Paths) -> Member:
    serve = member.serve
    return msgspec.structs.replace(
        member,
        price=None,
        variants=tuple(
            msgspec.structs.replace(each, weights=each.weights and HERE, adapter=each.adapter and HERE)
            for each in member.variants
        ),
        components=components,
        serve=msgspec.structs.replace(
            serve,
            system_prompt=paths.of(serve.system_prompt, is_open=False),
            guard=paths.of(serve.guard, is_open=False),
            target=serve.target and Target(url="https://elsewhere", model="elsewhere"),
        ),
    )
