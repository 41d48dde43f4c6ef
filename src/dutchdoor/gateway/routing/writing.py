"""A routes file as text: from a LiteLLM config, or from servers that were found."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dutchdoor.gateway.routing.edit import flow, scalar
from dutchdoor.gateway.routing.file import LoadedRoutes, PriceRow, RoutePlan, TargetRow


def key_variable(target: str) -> str:
    """The name of an environment variable for a target's key."""
    return re.sub(r"[^A-Z0-9]+", "_", target.upper()).strip("_") + "_KEY"


def routes_text(loaded: LoadedRoutes, remarks: Iterable[str] = ()) -> str:
    """The text of a `dutchdoor/routes@1` file; `remarks` are comments at its top. A key that came with the
    routes is not in it: the target names a variable for it.
    """
    lines = ["kind: dutchdoor/routes@1"]
    lines += [f"# {' '.join(remark.split())}" for remark in remarks]
    lines.append("targets:")
    for name, row in loaded.targets.items():
        if name in loaded.keys:
            row = msgspec.structs.replace(row, key_env=key_variable(name))
        lines.append(f"  {scalar(name)}: {flow(target_fields(row))}")
    lines.append("routes:")
    lines += [f"  {scalar(plan.model)}: {flow(_route_value(plan))}" for plan in loaded.routes]
    return "\n".join(lines) + "\n"


def target_fields(row: TargetRow) -> dict[str, Any]:
    """The fields of a row that say something."""
    fields = {name: value for name, value in msgspec.structs.asdict(row).items() if value not in (None, {})}
    if isinstance(row.price, PriceRow):
        price = msgspec.structs.asdict(row.price)
        fields["price"] = {name: value for name, value in price.items() if value is not None}
    return fields


def _route_value(plan: RoutePlan) -> Sequence[str] | Mapping[str, Any]:
    to: Any = list(plan.to) if plan.weights is None else dict(zip(plan.to, plan.weights, strict=True))
    stated = {
        "unpriced": "allow" if plan.unpriced else None,
        "retries": plan.retries,
        "deadline_s": plan.deadline_s,
    }
    options = {name: value for name, value in stated.items() if value is not None}
    # a target that is called `to` would make of its weights the long form
    long = bool(options) or (isinstance(to, dict) and "to" in to)
    return {"to": to, **options} if long else to
