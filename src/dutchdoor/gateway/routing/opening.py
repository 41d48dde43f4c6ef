"""From checked routes to targets that can be asked, and again after a change: only what has changed is opened.

A bundle is verified, and a member needs its API channel open. A price that is not given is looked up for
targets that the price book knows; else it is unknown, never 0.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from dutchdoor.core import (
    BundleError,
    DutchdoorError,
    EngineError,
    MissingExtraError,
    digest_file,
    digest_value,
)
from dutchdoor.engines.providers import PROVIDERS
from dutchdoor.gateway import log
from dutchdoor.gateway.contract import abilities_of
from dutchdoor.gateway.routing.file import LoadedRoutes, PriceRow, RoutePlan, TargetRow, load_routes
from dutchdoor.gateway.routing.keys import key_from
from dutchdoor.gateway.routing.route import About, Route
from dutchdoor.gateway.routing.shelf import EngineShelf
from dutchdoor.gateway.targets.engine import EngineTarget
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.gateway.targets.interface import Target
from dutchdoor.gateway.tariff import Tariff, price_now
from dutchdoor.ledger.price_book import look_up
from dutchdoor.ledger.prices import Price

if TYPE_CHECKING:
    from dutchdoor.evidence.signing_keys import PublicKey


class HeldError(EngineError):
    """A member whose API channel is not open: it is served nowhere."""


@dataclass(frozen=True)
class Opened:
    """A target, and the digest of all that it was made of."""

    target: Target
    made_of: str


@dataclass(frozen=True, kw_only=True)
class Built:
    """Routes that are ready, and the targets of earlier ones that no route needs any more."""

    routes: dict[str, Route]
    retired: tuple[Target, ...] = ()
    digest: str | None = None  # of the file's bytes that they were made of


@dataclass
class Opener:
    """What is open. Building again keeps the targets whose row is unchanged, and closes nothing: whoever
    switches closes the retired ones when their requests have ended.
    """

    data: Path
    trusted: Sequence["PublicKey"] = ()
    threads: int | None = None
    _opened: dict[str, Opened] = field(default_factory=dict, init=False)
    _shelf: EngineShelf | None = field(default=None, init=False)

    @property
    def shelf(self) -> EngineShelf:
        """The engines of all targets."""
        if self._shelf is None:
            self._shelf = EngineShelf(cache=self.data / "cache", threads=self.threads)
        return self._shelf

    async def build(self, loaded: LoadedRoutes) -> Built:
        """The routes of a file; only targets that a route names are opened, each once.

        A held member is an error at first; when routes are built again it is left out, with every route that
        has nothing else: an error would keep it served. On any error, all stays as it was.
        """
        again = bool(self._opened)
        fresh: dict[str, Opened] = {}
        try:
            for name in dict.fromkeys(name for plan in loaded.routes for name in plan.to):
                try:
                    fresh[name] = await self._open(loaded, name)
                except HeldError as error:
                    if not again:
                        raise
                    log.write(log.faults, logging.WARNING, "held", target=name, message=error.message)
        except BaseException:
            await self.close(new for name, new in fresh.items() if new is not self._opened.get(name))
            raise
        plans = [left for plan in loaded.routes if (left := _without(plan, fresh)) is not None]
        return self.keep(fresh, [_route(plan, fresh) for plan in plans])

    def keep(self, fresh: dict[str, Opened], routes: Iterable[Route]) -> Built:
        """From now on these are what is open; what was open besides is retired."""
        kept = {id(each.target) for each in fresh.values()}
        retired = tuple(each.target for each in self._opened.values() if id(each.target) not in kept)
        self._opened = fresh
        return Built(routes={route.model: route for route in routes}, retired=retired)

    def unchanged(self, name: str, made_of: str) -> Opened | None:
        """What is open under a name, if it was made of the same."""
        found = self._opened.get(name)
        return found if found is not None and found.made_of == made_of else None

    async def close(self, targets: Iterable[Opened]) -> None:
        """Close targets that were opened and are not wanted."""
        for each in targets:
            try:
                await each.target.close()
            except DutchdoorError as error:
                log.write(log.faults, logging.ERROR, "close", target=each.target.name, message=error.message)

    async def _open(self, loaded: LoadedRoutes, name: str) -> Opened:
        row, folder = loaded.targets[name], loaded.path.parent
        if row.family is not None:
            assert row.member is not None
            return await self._member(folder, name, row)
        key = loaded.keys.get(name)
        made_of = digest_value([row, str(folder.absolute()), key])
        if found := self.unchanged(name, made_of):
            return found
        if row.url is not None or row.provider is not None:
            return Opened(remote(name, row, key), made_of)
        stated = folder / (row.weights or "")
        weights = stated if row.bundle is None else await _bundle(folder / row.bundle, self.trusted)
        engine = await self.shelf.lend(weights)
        return Opened(EngineTarget(name, engine, price_of(row)), made_of)

    async def _member(self, folder: Path, name: str, row: TargetRow) -> Opened:
        """A member of a family, decided from the evidence in a data folder each time routes are built.

        The routes file's price goes first.
        """
        from dutchdoor.family.load import load_family
        from dutchdoor.gateway.routing import family as families

        assert row.family is not None and row.member is not None
        path = folder / row.family
        # a folder that was given holds the evidence of all; the default one is only beside the routes file
        beside = path.parent / ".dutchdoor" if self.data == folder / ".dutchdoor" else self.data
        loaded = load_family(path)
        member = loaded.member(row.member)
        judged = await families.decide_from_store(loaded, beside, self.trusted)
        if member not in families.served_members(loaded, judged.decision):
            raise HeldError(
                f"the API channel of {row.member} in {path} is not open", hint=f"dutchdoor decide {path}"
            )
        made_of = digest_value([row, families.made_of(loaded, member)])
        if found := self.unchanged(name, made_of):
            return found
        target = await families.open_member(loaded, member, beside, name=name, lend=self.shelf.lend)
        if row.price is not None:
            target.price = price_of(row)
        return Opened(target, made_of)


@dataclass
class RoutesSource:
    """A routes file, or one that `read` turns into routes, of which routes are made: again after each change."""

    path: Path
    opener: Opener
    read: Callable[[Path], LoadedRoutes] = load_routes
    watched: bool = True

    async def build(self) -> Built:
        """The routes of the file as it is now. Raises DutchdoorError, and then all stays as it was."""
        digest, loaded = await asyncio.to_thread(self._read)  # a long file takes longer than answers may wait
        return replace(await self.opener.build(loaded), digest=digest)

    def _read(self) -> tuple[str, LoadedRoutes]:
        while True:
            digest = digest_file(self.path)
            loaded = self.read(self.path)
            if digest_file(self.path) == digest:  # else it was written in between: not these bytes were read
                return digest, loaded


def remote(name: str, row: TargetRow, key: str | None = None) -> Target:
    """The target of a URL or of a provider; `key` goes before the environment."""
    assert row.model is not None
    provider = None if row.provider is None else PROVIDERS[row.provider]
    variable = row.key_env or (None if provider is None else provider.key_env)
    key = key or key_from(variable, name)
    url = row.url if provider is None else provider.base_url
    assert url is not None
    can = abilities_of(row.can, url=url, provider=row.provider)
    price = price_of(row, url)
    if provider is not None and provider.adapter:
        from dutchdoor.gateway.targets import adapter  # brings the adapters' library

        assert key is not None  # the row of each provider with an adapter names a variable
        return adapter.AdapterTarget(name, cast(Any, provider.name), row.model, price, key=key, can=can)
    more: dict[str, Any] = {} if row.timeout_s is None else {"idle_s": row.timeout_s}
    return HttpTarget(name, url, row.model, price, can=can, key=key, **more)


def price_of(row: TargetRow, url: str | None = None) -> Tariff:
    """The price that a row gives; where it gives none, what the price book says of the URL; else null."""
    if row.price == "unknown":
        return None
    if isinstance(row.price, PriceRow):
        stated = {name: each for name, each in msgspec.structs.asdict(row.price).items() if each is not None}
        return Price.per_million(**stated)
    if url is None or row.model is None:
        return None
    try:
        return look_up(url, row.model)
    except MissingExtraError as error:  # without the book it is unknown, as for whom the book does not know
        log.write(log.faults, logging.WARNING, "price", model=row.model, message=error.message)
        return None


def _without(plan: RoutePlan, opened: Mapping[str, Opened]) -> RoutePlan | None:
    """A route without the targets that are not open; null where it has nothing else."""
    left = [index for index, name in enumerate(plan.to) if name in opened]
    weights = None if plan.weights is None else tuple(plan.weights[index] for index in left)
    if not left or (weights is not None and not any(weights)):
        return None
    return msgspec.structs.replace(plan, to=tuple(plan.to[index] for index in left), weights=weights)


def _route(plan: RoutePlan, opened: Mapping[str, Opened]) -> Route:
    first = opened[plan.to[0]].target
    price = price_now(first.price)  # what is billed, which for a member may be its family's price
    context = first.engine.info.context_length if isinstance(first, EngineTarget) else None
    return Route(
        model=plan.model,
        targets=tuple(opened[name].target for name in plan.to),
        weights=plan.weights,
        unpriced=plan.unpriced,
        retries=plan.retries,
        deadline_s=plan.deadline_s,
        about=About(context_length=context, price=None if price is None else price.usd_per_million()),
    )


async def _bundle(path: Path, trusted: Sequence["PublicKey"]) -> Path:
    """The verified copy of a bundle: what is served is what was verified."""
    from dutchdoor.bundle.store import admit, default_store  # a gateway of URLs needs none of this

    admitted = await admit(path, trusted, default_store())
    if admitted.path is None:
        found = admitted.report.findings[0]
        raise BundleError(
            f"{path} is not what it says: {found.file}: {found.what}", hint=f"dutchdoor verify {path}"
        )
    if not admitted.report.trusted:
        message = f"{path} holds, but its signer {admitted.report.signer} is not one you trust"
        log.write(log.faults, logging.WARNING, "unknown-signer", message=message)
    return admitted.path
