"""From a family and its decision to what is served: members whose API channel is open, whatever their tier.

Decides nothing itself. A member that is held is nowhere: no route, no engine, no name in the list of models.
"""

import datetime
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import Channel, EngineError, Tier, digest_bytes, digest_value
from dutchdoor.engines.guard import guarded, load_guard
from dutchdoor.engines.http import HttpEngine
from dutchdoor.engines.interface import Engine
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily, load_family, served_variant
from dutchdoor.family.manifest import Member
from dutchdoor.gateway import log
from dutchdoor.gateway.call import TOKENS_PER_PROMPT
from dutchdoor.gateway.contract import abilities_of
from dutchdoor.gateway.routing.keys import key_from
from dutchdoor.gateway.routing.opening import Built, Opened, Opener
from dutchdoor.gateway.routing.route import About, Route, price_of
from dutchdoor.gateway.targets.engine import EngineTarget
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.gateway.targets.interface import Target
from dutchdoor.gateway.targets.private import hider
from dutchdoor.policy.decide import decide, load_policies
from dutchdoor.policy.decision import Decision

Lend = Callable[[Path], Awaitable[Engine]]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what was left out of the evidence and why."""

    decision: Decision
    warnings: tuple[str, ...]


async def decide_from_store(loaded: LoadedFamily, data: Path, trusted: Sequence[PublicKey]) -> Judged:
    """The decision of today from the evidence in a data folder; measures nothing."""
    shelf = await open_shelf(
        EvidenceStore(data / "evidence"),
        loaded,
        trusted,
        salts=Salts(data / "salts"),
        cache=data / "cache",
    )
    today = datetime.datetime.now(datetime.UTC).date()
    return Judged(
        decision=decide(loaded, load_policies(loaded), shelf, today), warnings=tuple(shelf.warnings)
    )


def served_members(loaded: LoadedFamily, decision: Decision) -> tuple[Member, ...]:
    """The members whose API channel is open, in the manifest's order.

    One without a decision is not served.
    """

    def is_open(member: Member) -> bool:
        judged = decision.members.get(member.name)
        channel = None if judged is None else judged.channels.get(Channel.API)
        return channel is not None and channel.open

    return tuple(member for member in loaded.family.members if is_open(member))


async def open_member(
    loaded: LoadedFamily, member: Member, data: Path, *, lend: Lend, name: str | None = None
) -> Target:
    """The target of a member as its publisher serves it: with the declared system prompt and guard. `lend`
    gives the engine of weights.

    Raises EngineError, WeightsError or MissingExtraError where it cannot be served here.
    """
    serve = member.serve
    prompt = None if serve.system_prompt is None else loaded.resolve(serve.system_prompt).read_text("utf-8")
    guard = None if serve.guard is None else load_guard(loaded.resolve(serve.guard))
    name, price, family = name or member.name, price_of(member.price), loaded.family.family
    hide: Callable[[str], str] = str
    if serve.target is not None:
        key = key_from(serve.target.key_env, member.name)
        url, model = serve.target.url, serve.target.model
        if guard is None:
            can = abilities_of({}, url=url)
            return HttpTarget(name, url, model, price, can=can, key=key, system_prompt=prompt, family=family)
        engine: Engine = HttpEngine(url, model, key)
        hide = hider(url, key)
    else:
        engine = await lend(weights_of(loaded, member))
    if prompt is not None or guard is not None:
        engine = guarded(engine, prompt, guard)
    own = 0 if prompt is None else len(prompt.encode()) + TOKENS_PER_PROMPT
    return EngineTarget(name, engine, price, own=own, hide=hide, family=family)


def made_of(loaded: LoadedFamily, member: Member) -> str:
    """The digest of what a member's target is made of; of weights, where they lie."""
    serve = member.serve
    files = [each for each in (serve.system_prompt, serve.guard) if each is not None]
    contents = [digest_bytes(loaded.resolve(each).read_bytes()) for each in files]
    return digest_value([loaded.family.family, str(loaded.folder.absolute()), member, contents])


def weights_of(loaded: LoadedFamily, member: Member) -> Path:
    """The weights that the API serves; raises EngineError where they are not whole, or not here."""
    variant = loaded.variant(member.name, served_variant(member))
    path = loaded.weights_path(member.name, variant.id)
    if variant.weights is None:
        raise EngineError(
            f"{member.name}/{variant.id} is an adapter, which is not served by itself",
            hint="name a variant with whole weights under `serve: {variant: …}`",
        )
    if path is None:
        raise EngineError(
            f"the weights of {member.name}/{variant.id} are not on this machine",
            hint="download them and name the folder, or say where it is served with `serve: {target: …}`",
        )
    return path


@dataclass
class FamilySource:
    """A manifest with its evidence, of which routes are made: again after each `reload now`."""

    path: Path
    opener: Opener
    watched: bool = False  # a manifest changes together with its evidence: it is read again when told to

    async def build(self) -> Built:
        """The routes of today: whoever became held is gone."""
        loaded = load_family(self.path)
        judged = await decide_from_store(loaded, self.opener.data, self.opener.trusted)
        for warning in judged.warnings:
            log.write(log.faults, logging.WARNING, "evidence", message=warning)
        return await self.build_from(loaded, judged.decision)

    async def build_from(self, loaded: LoadedFamily, decision: Decision) -> Built:
        """A route for every member whose API channel is open, under its own name.

        A member without a price is served, and what it costs is unknown.
        """
        fresh: dict[str, Opened] = {}
        routes = []
        try:
            for member in served_members(loaded, decision):
                opened = await self._open(loaded, member)
                fresh[member.name] = opened
                about = about_member(loaded, member, decision, opened.target)
                routes.append(Route(model=member.name, targets=(opened.target,), unpriced=True, about=about))
        except BaseException:
            await self.opener.close(
                each for name, each in fresh.items() if self.opener.unchanged(name, each.made_of) is not each
            )
            raise
        return self.opener.keep(fresh, routes)

    async def _open(self, loaded: LoadedFamily, member: Member) -> Opened:
        digest = made_of(loaded, member)
        if found := self.opener.unchanged(member.name, digest):
            return found
        lend = self.opener.shelf.lend
        return Opened(await open_member(loaded, member, self.opener.data, lend=lend), digest)


def about_member(loaded: LoadedFamily, member: Member, decision: Decision, target: Target) -> About:
    """What anyone with a key may know of a member. A closed one's parameters stay closed."""
    facts: Any = None
    if decision.members[member.name].tier is Tier.OPEN_WEIGHTS:
        facts = loaded.facts(member.name, served_variant(member))
    context = target.engine.info.context_length if isinstance(target, EngineTarget) else None
    price = member.price
    return About(
        license=member.license,
        context_length=context,
        parameters=None if facts is None else facts.parameters,
        price=None if price is None else {"input": price.input, "output": price.output},
    )
