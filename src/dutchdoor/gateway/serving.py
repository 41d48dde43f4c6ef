"""From a family and its decision to what is served: members whose API channel is open, whatever their tier.

Decides nothing itself. A member that is held is nowhere: no route, no engine, no name in the list of models.
"""

import contextlib
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import Channel, EngineError, Tier
from dutchdoor.engines.guard import guarded, load_guard
from dutchdoor.engines.http import HttpEngine
from dutchdoor.engines.interface import Engine
from dutchdoor.engines.load import open_engine
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily, served_variant
from dutchdoor.family.manifest import Member
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.asgi import App
from dutchdoor.gateway.private import hider
from dutchdoor.gateway.routing import About, Route, price_of
from dutchdoor.gateway.targets import PARALLEL, TOKENS_PER_MESSAGE, EngineTarget, Target
from dutchdoor.gateway.upstream import HttpTarget, key_from
from dutchdoor.ledger.store import Ledger
from dutchdoor.policy.decide import decide, load_policies
from dutchdoor.policy.decision import Decision


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
    loaded: LoadedFamily, member: Member, data: Path, *, name: str | None = None, threads: int | None = None
) -> Target:
    """The target of a member as its publisher serves it: with the declared system prompt and guard.

    Raises EngineError, WeightsError or MissingExtraError where it cannot be served here.
    """
    serve = member.serve
    prompt = None if serve.system_prompt is None else loaded.resolve(serve.system_prompt).read_text("utf-8")
    guard = None if serve.guard is None else load_guard(loaded.resolve(serve.guard))
    name, price = name or member.name, price_of(member.price)
    hide: Callable[[str], str] = str
    if serve.target is not None:
        key = key_from(serve.target.key_env, member.name)
        if guard is None:
            return HttpTarget(
                name, serve.target.url, serve.target.model, price, key=key, system_prompt=prompt
            )
        engine: Engine = HttpEngine(serve.target.url, serve.target.model, key)
        hide = hider(serve.target.url, key)
    else:
        path = weights_of(loaded, member)
        engine = await open_engine(path, threads=threads, parallel=PARALLEL, cache=data / "cache")
    if prompt is not None or guard is not None:
        engine = guarded(engine, prompt, guard)
    own = 0 if prompt is None else len(prompt.encode()) + TOKENS_PER_MESSAGE
    return EngineTarget(name, engine, price, own=own, hide=hide)


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


async def build_from_family(
    loaded: LoadedFamily,
    decision: Decision,
    data: Path,
    *,
    ledger: Ledger | None = None,
    threads: int | None = None,
    pages: App | None = None,
) -> Gateway:
    """The gateway over every member whose API channel is open, each under its own name.

    The gateway owns the ledger from then on. A member without a price is served, and what it costs is
    unknown.
    """
    async with contextlib.AsyncExitStack() as undo:
        ledger = ledger or await Ledger.open_in(data)
        undo.push_async_callback(ledger.close)
        routes = []
        for member in served_members(loaded, decision):
            target = await open_member(loaded, member, data, threads=threads)
            undo.push_async_callback(target.close)
            about = about_member(loaded, member, decision, target)
            routes.append(Route(model=member.name, targets=(target,), unpriced=True, about=about))
        gateway = Gateway(ledger, routes, pages=pages)
        undo.pop_all()
        return gateway


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
