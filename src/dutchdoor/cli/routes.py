"""`dutchdoor routes`: which targets stand behind which names, while the server runs and without it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from dutchdoor.cli.options import Decorator, data_folder, data_option, format_option
from dutchdoor.core import UsageError
from dutchdoor.gateway.routing.file import LoadedRoutes, RoutePlan, load_routes
from dutchdoor.gateway.routing.litellm import load_litellm
from dutchdoor.gateway.routing.swap import Swapped, To, swap_route
from dutchdoor.gateway.routing.writing import key_variable, routes_text, target_fields


def routes_option() -> Decorator:
    return click.option(
        "--routes",
        "path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path("routes.yaml"),
        show_default=True,
        help="The routes file.",
    )


@click.group("routes")
def command() -> None:
    """List and swap the targets behind public names, or import them.

    Example: dutchdoor routes set assistant hosted
    """


@command.command("list")
@routes_option()
@format_option()
def list_(path: Path, format_: str) -> None:
    """List routes with their targets, in order or by weight.

    Example: dutchdoor routes list --routes routes.yaml --format json
    """
    loaded = load_routes(path)
    if format_ == "json":
        click.echo(msgspec.json.encode([_row(loaded, plan) for plan in loaded.routes]).decode())
        return
    for plan in loaded.routes:
        options = [
            "unpriced: allow" if plan.unpriced else "",
            "" if plan.retries is None else f"retries: {plan.retries}",
            "" if plan.deadline_s is None else f"deadline_s: {plan.deadline_s:g}",
        ]
        click.echo("  ".join([plan.model, _shown(plan.to, plan.weights), *filter(None, options)]))


@command.command("set")
@click.argument("name")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@routes_option()
@data_option()
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the server; loading weights takes as long as it takes.",
)
@click.option("--new", is_flag=True, help="Make the route if there is none of that name.")
@format_option()
def set_(
    name: str,
    targets: tuple[str, ...],
    path: Path,
    data: Path | None,
    timeout: float,
    new: bool,
    format_: str,
) -> None:
    """Put other targets behind a name; returns when every worker has switched.

    Several targets stand in for each other in this order; `TARGET=90 OTHER=10` draws by weight. Only the
    value of this route changes in the file. No restart, and no request is lost.

    Example: dutchdoor routes set assistant hosted local
    """
    to = _targets(targets, load_routes(path))
    serving = data_folder(path, data) / "serving"
    done = asyncio.run(swap_route(path, name, to, serving, timeout_s=timeout, new=new))
    if format_ == "json":
        click.echo(msgspec.json.encode(done).decode())
        return
    click.echo(f"{done.route} → {_shown(done.to, done.weights)}")
    click.echo(_who(done, path), err=True)


@command.command("import")
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "format_", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def import_(config: Path, format_: str) -> None:
    """Write a LiteLLM config.yaml as a routes.yaml to stdout.

    What is not taken over is said on stderr, and in comments of the file. A key that stands in the config
    is not written: the file names a variable for it.

    Example: dutchdoor routes import config.yaml > routes.yaml
    """
    found = load_litellm(config)
    remarks = [f"{each.where}: {each.why}" for each in found.left_out]
    variables = {name: key_variable(name) for name in found.routes.keys}
    if format_ == "json":
        row = {
            "targets": {name: target_fields(row) for name, row in found.routes.targets.items()},
            "routes": [_row(found.routes, plan) for plan in found.routes.routes],
            "left_out": found.left_out,
            "keys": variables,
        }
        click.echo(msgspec.json.encode(row).decode())
    else:
        click.echo(routes_text(found.routes, [f"not taken over: {each}" for each in remarks]), nl=False)
    for remark in remarks:
        click.echo(f"not taken over: {remark}", err=True)
    for name, variable in variables.items():
        click.echo(f"the key of {name} belongs in the variable {variable}", err=True)


def _targets(stated: Sequence[str], loaded: LoadedRoutes) -> To:
    """Names in order, or weights by name; a target whose name has `=` in it is a name."""
    weighed = [each for each in stated if "=" in each and each not in loaded.targets]
    if not weighed:
        return list(stated)
    if len(weighed) < len(stated):
        raise UsageError(
            "some targets have a weight and some have none", hint="give each one a weight: a=90 b=10"
        )
    weights: dict[str, float] = {}
    for each in weighed:
        name, _, weight = each.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError as error:
            raise UsageError(f"{weight!r} is no weight of {name}", hint="write TARGET=90") from error
        if not 0 <= weights[name] < float("inf"):
            raise UsageError(f"{weight!r} is no weight of {name}", hint="a weight is a number ≥ 0")
    if len(weights) < len(weighed):
        raise UsageError("a target is named twice")
    return weights


def _shown(to: Sequence[str], weights: Sequence[float] | None) -> str:
    if weights is None:
        return ", ".join(to)
    return ", ".join(f"{name}={weight:g}" for name, weight in zip(to, weights, strict=True))


def _who(done: Swapped, path: Path) -> str:
    if not done.workers:
        return f"no server serves {path}; it was rewritten"
    return f"{done.workers} worker{'s' if done.workers > 1 else ''} switched"


def _row(loaded: LoadedRoutes, plan: RoutePlan) -> dict[str, Any]:
    weights: Sequence[float | None] = plan.weights or [None] * len(plan.to)
    return {
        "route": plan.model,
        "to": [
            {"target": name, "weight": weight, "model": loaded.targets[name].model}
            for name, weight in zip(plan.to, weights, strict=True)
        ],
        "unpriced": "allow" if plan.unpriced else "refuse",
        "retries": plan.retries,
        "deadline_s": plan.deadline_s,
    }
