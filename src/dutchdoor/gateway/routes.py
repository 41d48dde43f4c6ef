"""routes.yaml: targets by name, and the public model names that lead to them.

A target is a URL, weights on this machine, a bundle, or a member of a family; a route is a list in order,
weights, or the long form `{to: …, unpriced: allow}`. A bundle is verified, and a member needs its API channel
open.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from dutchdoor.core import BundleError, EngineError
from dutchdoor.engines.load import open_engine
from dutchdoor.family import manifest
from dutchdoor.family.document import Document, open_document
from dutchdoor.gateway import log
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.routing import About, Route, price_of
from dutchdoor.gateway.targets import PARALLEL, EngineTarget, Target
from dutchdoor.gateway.upstream import HttpTarget, key_from
from dutchdoor.ledger.store import Ledger

if TYPE_CHECKING:
    from dutchdoor.evidence.signing_keys import PublicKey

ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
FORMS = ("url", "weights", "bundle", "family")


class TargetRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that serves a model, in one of four forms. Paths are relative to the routes file."""

    url: str | None = None
    model: str | None = None
    key_env: str | None = None
    can: dict[str, bool] = {}
    weights: str | None = None
    bundle: str | None = None
    family: str | None = None
    member: str | None = None
    price: manifest.Price | None = None


class RoutesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dutchdoor/routes@1` as written."""

    kind: Literal["dutchdoor/routes@1"]
    targets: dict[str, TargetRow]
    routes: dict[ModelName, list[str] | dict[str, Any]]


class RoutePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A route by the names of its targets."""

    model: str
    to: tuple[str, ...]
    weights: tuple[float, ...] | None
    unpriced: bool


class LoadedRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """A routes file that was read and checked; nothing is opened yet."""

    path: Path
    targets: dict[str, TargetRow]
    routes: tuple[RoutePlan, ...]


def load_routes(path: Path) -> LoadedRoutes:
    """Read and check a routes file; raises DocumentError with file, line, field and remedy."""
    document = open_document(path, RoutesFile)
    for name, row in document.value.targets.items():
        _check_target(document, f"targets.{name}", row)
    if not document.value.routes:
        raise document.fault("routes", "there is no route", hint="routes: {assistant: [TARGET]}")
    plans = tuple(_plan(document, model, stated) for model, stated in document.value.routes.items())
    return LoadedRoutes(path=path, targets=document.value.targets, routes=plans)


def _check_target(document: Document[RoutesFile], where: str, row: TargetRow) -> None:
    forms = [name for name in FORMS if getattr(row, name) is not None]
    if len(forms) != 1:
        hint = "a target is {url, model}, {weights: PATH}, {bundle: PATH} or {family: PATH, member}"
        raise document.fault(where, "expected one of url, weights, bundle and family", hint=hint)
    needs = {"url": ("model",), "family": ("member",)}.get(forms[0], ())
    for name in needs:
        if getattr(row, name) is None:
            raise document.fault(where, f"the field `{name}` is missing", hint=f"add `{name}: …`")
    allowed = {"url": ("model", "key_env", "can"), "family": ("member",)}.get(forms[0], ())
    for name in ("model", "key_env", "can", "member"):
        if getattr(row, name) and name not in allowed:
            raise document.fault(f"{where}.{name}", f"a target with `{forms[0]}` has no `{name}`")


def _plan(document: Document[RoutesFile], model: str, stated: list[str] | dict[str, Any]) -> RoutePlan:
    where, unpriced = f"routes.{model}", False
    to: Any = stated
    if isinstance(stated, dict) and "to" in stated:
        if extra := sorted(set(stated) - {"to", "unpriced"}):
            hint = "known here: to, unpriced"
            raise document.fault(f"{where}.{extra[0]}", "unknown field", hint=hint)
        if stated.get("unpriced", "refuse") not in ("allow", "refuse"):
            raise document.fault(f"{where}.unpriced", "expected allow or refuse")
        unpriced, where, to = stated.get("unpriced") == "allow", f"{where}.to", stated["to"]
    named = _named(document, where, to)
    return RoutePlan(model=model, to=named, weights=_weights(document, where, to), unpriced=unpriced)


def _named(document: Document[RoutesFile], where: str, to: Any) -> tuple[str, ...]:
    if not isinstance(to, list | dict) or not to:
        raise document.fault(where, "there is no target", hint="write [TARGET, …] or {TARGET: 90, …}")
    for name in to:
        if not isinstance(name, str) or name not in document.value.targets:
            known = ", ".join(document.value.targets) or "none"
            raise document.fault(where, f"there is no target {name!r}", hint=f"targets: {known}")
    if len(set(to)) < len(to):
        raise document.fault(where, "a target is named twice")
    return tuple(to)


def _weights(document: Document[RoutesFile], where: str, to: Any) -> tuple[float, ...] | None:
    if not isinstance(to, dict):
        return None
    for name, weight in to.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise document.fault(f"{where}.{name}", "expected a weight ≥ 0")
    weights = tuple(float(weight) for weight in to.values())
    if not sum(weights):
        raise document.fault(where, "no weight is above 0")
    return weights


async def build_from_routes(
    loaded: LoadedRoutes,
    data: Path,
    trusted: Sequence["PublicKey"],
    *,
    ledger: Ledger | None = None,
    threads: int | None = None,
) -> Gateway:
    """The gateway of a routes file; only targets that a route names are opened, each once."""
    async with contextlib.AsyncExitStack() as undo:
        ledger = ledger or await Ledger.open_in(data)
        undo.push_async_callback(ledger.close)
        opened: dict[str, Target] = {}
        for name in dict.fromkeys(name for plan in loaded.routes for name in plan.to):
            opened[name] = await _open(loaded, name, data, trusted, threads)
            undo.push_async_callback(opened[name].close)
        gateway = Gateway(ledger, [_route(plan, opened) for plan in loaded.routes])
        undo.pop_all()
        return gateway


def _route(plan: RoutePlan, opened: Mapping[str, Target]) -> Route:
    first = opened[plan.to[0]]
    price = first.price  # what is billed, which for a member may be its family's price
    context = first.engine.info.context_length if isinstance(first, EngineTarget) else None
    return Route(
        model=plan.model,
        targets=tuple(opened[name] for name in plan.to),
        weights=plan.weights,
        unpriced=plan.unpriced,
        about=About(
            context_length=context,
            price=None if price is None else price.usd_per_million(),
        ),
    )


async def _open(
    loaded: LoadedRoutes, name: str, data: Path, trusted: Sequence["PublicKey"], threads: int | None
) -> Target:
    row, folder = loaded.targets[name], loaded.path.parent
    price = price_of(row.price)
    if row.url is not None:
        assert row.model is not None
        return HttpTarget(name, row.url, row.model, price, key=key_from(row.key_env, name), can=row.can)
    if row.family is not None:
        assert row.member is not None
        family = folder / row.family
        # a folder that was given holds the evidence of all; the default one is only beside the routes file
        beside = family.parent / ".dutchdoor" if data == folder / ".dutchdoor" else data
        return await _member(family, row.member, name, row, trusted, threads, beside)
    weights = (
        folder / (row.weights or "") if row.bundle is None else await _bundle(folder / row.bundle, trusted)
    )
    engine = await open_engine(weights, threads=threads, parallel=PARALLEL, cache=data / "cache")
    return EngineTarget(name, engine, price)


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


async def _member(
    path: Path,
    member: str,
    name: str,
    row: TargetRow,
    trusted: Sequence["PublicKey"],
    threads: int | None,
    data: Path,
) -> Target:
    """A member of a family, decided from the evidence in a data folder.

    The routes file's price goes first.
    """
    from dutchdoor.family.load import load_family
    from dutchdoor.gateway.serving import decide_from_store, open_member, served_members

    family = load_family(path)
    found = family.member(member)
    decision = (await decide_from_store(family, data, trusted)).decision
    if found not in served_members(family, decision):
        raise EngineError(
            f"the API channel of {member} in {path} is not open", hint=f"dutchdoor decide {path}"
        )
    target = await open_member(family, found, data, name=name, threads=threads)
    if row.price is not None:
        target.price = price_of(row.price)
    return target
