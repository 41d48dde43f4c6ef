"""routes.yaml: targets by name, and the public model names that lead to them.

A target is a URL, a provider, weights on this machine, a bundle, or a member of a family; a route is a list in
order, weights, or the long form `{to: …, unpriced: allow}`. Reads and checks; opens nothing: see `opening`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dutchdoor.core import DocumentError, LedgerError
from dutchdoor.engines.providers import PROVIDERS
from dutchdoor.family.document import Document, open_document
from dutchdoor.gateway.contract import stated
from dutchdoor.ledger.prices import pico_dollars

LONGEST_NAME = 200
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_NAME)]
FORMS = ("url", "provider", "weights", "bundle", "family")
SHAPES = "{url, model}, {provider, model}, {weights: PATH}, {bundle: PATH} or {family: PATH, member}"
NEEDS = {"url": ("model",), "provider": ("model",), "family": ("member",)}
ALLOWS = {
    "url": ("model", "key_env", "can", "timeout_s"),
    "provider": ("model", "key_env", "can", "timeout_s"),
    "family": ("member",),
}
ROUTE_FIELDS = ("to", "unpriced", "retries", "deadline_s")
MOST_RETRIES = 10
LONGEST_S = 86_400.0  # a day
_AT = re.compile(r" - at `\$([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$")


class PriceRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None = None  # input that the target had in its cache


class TargetRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One place that serves a model, in one of five forms. Paths are relative to the routes file."""

    url: str | None = None
    provider: str | None = None
    model: str | None = None
    key_env: str | None = None
    can: dict[str, bool | int] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)] | None = None
    weights: str | None = None
    bundle: str | None = None
    family: str | None = None
    member: str | None = None
    price: PriceRow | Literal["unknown"] | None = None


class RoutesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dutchdoor/routes@1` as written."""

    kind: Literal["dutchdoor/routes@1"]
    targets: dict[str, TargetRow]
    routes: dict[ModelName, list[str] | dict[str, Any]]


class _Rows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same with rows as they are, so that a fault in one can be told with its own line."""

    kind: Literal["dutchdoor/routes@1"]
    targets: dict[str, dict[str, Any]]
    routes: dict[str, list[str] | dict[str, Any]]


class RoutePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A route by the names of its targets."""

    model: str
    to: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    unpriced: bool = False
    retries: int | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedRoutes:
    """Targets and routes that were read and checked; nothing is opened yet. `keys` are those that came with
    the file, by target; everything else is in the environment. `long_forms` are the routes that are written
    as `{to: …}`.
    """

    path: Path
    targets: dict[str, TargetRow]
    routes: tuple[RoutePlan, ...]
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    long_forms: frozenset[str] = frozenset()


def load_routes(path: Path) -> LoadedRoutes:
    """Read and check a routes file; raises DocumentError with file, line, field and remedy."""
    if not path.exists():
        hint = "name another one; `dutchdoor targets discover` prints one for the servers on this machine"
        raise DocumentError(f"{path}: there is no such file", hint=hint)
    document = open_document(path, _Rows)
    for what in ("targets", "routes"):
        for name in getattr(document.value, what):
            if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():  # they are told in headers
                raise document.fault(
                    what,
                    f"{name[:LONGEST_NAME]!r} is no name",
                    hint=f"1 to {LONGEST_NAME} printable characters",
                )
    targets = {name: _target(document, name, row) for name, row in document.value.targets.items()}
    if not document.value.routes:
        raise document.fault("routes", "there is no route", hint="routes: {assistant: [TARGET]}")
    plans = tuple(_plan(document, model, stated) for model, stated in document.value.routes.items())
    stated = document.value.routes.items()
    long_forms = frozenset(model for model, to in stated if isinstance(to, dict) and "to" in to)
    return LoadedRoutes(path=path, targets=targets, routes=plans, long_forms=long_forms)


def _target(document: Document[_Rows], name: str, stated: dict[str, Any]) -> TargetRow:
    where = f"targets.{name}"
    try:
        row = msgspec.convert(stated, TargetRow)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _AT.search(text)
        inner = where + (found[1] if found else "")
        problem = text[: found.start()] if found else text
        if unknown := _UNKNOWN.match(problem):
            inner, problem = f"{inner}.{unknown[1]}", "unknown field"
        kind = PriceRow if inner.startswith(f"{where}.price.") else TargetRow
        hint = f"known here: {', '.join(kind.__struct_fields__)}" if unknown else None
        if inner == f"{where}.price":
            hint = "price: {input: 0.50, output: 1.50} in USD per million tokens, or unknown"
        raise document.fault(inner, problem[0].lower() + problem[1:], hint=hint) from error
    _check_target(document, where, row)
    return row


def _check_target(document: Document[_Rows], where: str, row: TargetRow) -> None:
    forms = [name for name in FORMS if getattr(row, name) is not None]
    if len(forms) != 1:
        raise document.fault(
            where,
            "expected one of url, provider, weights, bundle and family",
            hint=f"a target is {SHAPES}",
        )
    for name in NEEDS.get(forms[0], ()):
        if getattr(row, name) is None:
            raise document.fault(where, f"the field `{name}` is missing", hint=f"add `{name}: …`")
    for name in ("model", "key_env", "can", "timeout_s", "member"):
        if getattr(row, name) and name not in ALLOWS.get(forms[0], ()):
            raise document.fault(f"{where}.{name}", f"a target with `{forms[0]}` has no `{name}`")
    if row.provider is not None:
        _check_provider(document, where, row)
    try:
        stated(row.can)
    except ValueError as error:
        raise document.fault(f"{where}.can", str(error), hint="can: {tools: true, context: 8192}") from error
    _check_price(document, f"{where}.price", row.price)


def _check_provider(document: Document[_Rows], where: str, row: TargetRow) -> None:
    known = {each.name: each for each in PROVIDERS.values() if each.base_url is not None}
    provider = known.get(row.provider or "")
    if provider is None:
        hint = f"known here: {', '.join(known)}; any other is a target with its url"
        raise document.fault(f"{where}.provider", f"there is no provider {row.provider!r}", hint=hint)
    if provider.adapter and row.timeout_s is not None:
        raise document.fault(
            f"{where}.timeout_s",
            f"{provider.name} is reached through an adapter, which has no `timeout_s`",
            hint="use deadline_s of the route",
        )


def _check_price(document: Document[_Rows], where: str, price: PriceRow | Literal["unknown"] | None) -> None:
    if not isinstance(price, PriceRow):
        return
    for name in ("input", "output", "cached_input"):
        amount = getattr(price, name)
        try:
            if amount is not None:
                pico_dollars(amount)
        except LedgerError as error:
            raise document.fault(f"{where}.{name}", error.message, hint=error.hint) from error


def _plan(document: Document[_Rows], model: str, stated: list[str] | dict[str, Any]) -> RoutePlan:
    where = f"routes.{model}"
    to: Any = stated
    options: dict[str, Any] = {}
    if isinstance(stated, dict) and "to" in stated:
        options, to = _options(document, where, stated), stated["to"]
        where = f"{where}.to"
    named = _named(document, where, to)
    return RoutePlan(model=model, to=named, weights=_weights(document, where, to), **options)


def _options(document: Document[_Rows], where: str, stated: dict[str, Any]) -> dict[str, Any]:
    """The fields of a route's long form besides `to`."""
    if extra := sorted(set(stated) - set(ROUTE_FIELDS)):
        raise document.fault(
            f"{where}.{extra[0]}", "unknown field", hint=f"known here: {', '.join(ROUTE_FIELDS)}"
        )
    if stated.get("unpriced", "refuse") not in ("allow", "refuse"):
        raise document.fault(f"{where}.unpriced", "expected allow or refuse")
    retries, deadline = stated.get("retries"), stated.get("deadline_s")
    if retries is not None and (type(retries) is not int or not 0 <= retries <= MOST_RETRIES):
        raise document.fault(f"{where}.retries", f"expected a whole number from 0 to {MOST_RETRIES}")
    if deadline is not None and (type(deadline) not in (int, float) or not 0 < deadline <= LONGEST_S):
        raise document.fault(f"{where}.deadline_s", f"expected seconds, at most {LONGEST_S:g}")
    return {"unpriced": stated.get("unpriced") == "allow", "retries": retries, "deadline_s": deadline}


def _named(document: Document[_Rows], where: str, to: Any) -> tuple[str, ...]:
    if not isinstance(to, list | dict) or not to:
        raise document.fault(where, "there is no target", hint="write [TARGET, …] or {TARGET: 90, …}")
    for name in to:
        if not isinstance(name, str) or name not in document.value.targets:
            known = ", ".join(document.value.targets) or "none"
            raise document.fault(where, f"there is no target {name!r}", hint=f"targets: {known}")
    if len(set(to)) < len(to):
        raise document.fault(where, "a target is named twice")
    return tuple(to)


def _weights(document: Document[_Rows], where: str, to: Any) -> tuple[float, ...] | None:
    if not isinstance(to, dict):
        return None
    for name, weight in to.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise document.fault(f"{where}.{name}", "expected a weight ≥ 0")
    weights = tuple(float(weight) for weight in to.values())
    if not sum(weights):
        raise document.fault(where, "no weight is above 0")
    return weights
