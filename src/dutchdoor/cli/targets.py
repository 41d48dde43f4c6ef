"""`dutchdoor targets`: which servers there are on this machine, and what they can do."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from dutchdoor.cli.options import format_option, quiet_option
from dutchdoor.core import DocumentError, Exit, UsageError
from dutchdoor.engines.providers import PROVIDERS
from dutchdoor.gateway.routing.discover import as_routes, discover, known_urls
from dutchdoor.gateway.routing.file import LoadedRoutes, TargetRow, load_routes
from dutchdoor.gateway.routing.keys import key_from
from dutchdoor.gateway.routing.probe import REQUESTS, TIMEOUT_S, Finding, Probe, merged
from dutchdoor.gateway.routing.swap import set_abilities
from dutchdoor.gateway.routing.writing import routes_text

MARKS = {"can": "can", "cannot": "cannot", "unknown": "could not tell"}


@click.group("targets")
def command() -> None:
    """Find local servers, and find out what targets can do.

    Example: dutchdoor targets discover > routes.yaml
    """


@command.command("discover")
@click.option("--url", "urls", multiple=True, help="One more address to ask, such as http://10.0.0.5:8000.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.05, 60),
    default=1.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@click.option("--format", "format_", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
def discover_(urls: tuple[str, ...], timeout: float, format_: str) -> int:
    """Find Ollama, llama-server, vLLM, SGLang and LM Studio on this machine.

    Asks their usual ports on 127.0.0.1, and writes a routes.yaml with all that they serve to stdout. Exit
    code 3 where nothing is found.

    Example: dutchdoor targets discover --url http://127.0.0.1:8001 > routes.yaml
    """
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no address", hint="write it as http://127.0.0.1:8000")
    found = asyncio.run(discover([*known_urls(), *urls], timeout_s=timeout))
    for server in found:
        said = "needs a key to list its models" if server.needs_key else f"serves {len(server.models)} models"
        click.echo(f"{server.kind} at {server.url} {said}", err=True)
    if format_ == "json":
        click.echo(msgspec.json.encode(found).decode())
    elif any(server.models for server in found):
        click.echo(
            routes_text(as_routes(found), ["found on this machine; what they cost is not known"]), nl=False
        )
    if not any(server.models for server in found):
        click.echo("no server with a model answers", err=True)
        return Exit.INCONCLUSIVE
    return Exit.CLEAN


@command.command("probe")
@click.argument("path", metavar="ROUTES", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("names", nargs=-1, metavar="[TARGET]...")
@click.option("--write", is_flag=True, help="Write what was found into the file, as `can`.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@quiet_option()
@format_option()
def probe(path: Path, names: tuple[str, ...], write: bool, timeout: float, quiet: bool, format_: str) -> int:
    """Ask HTTP targets what they can do, one ability at a time.

    Sends small requests that are paid like any other. A parameter that is taken and has no effect counts as
    one that the target cannot do; a failure for another reason as unknown. `--write` keeps every `false` that
    was there. Exit code 3 where nothing could be told.

    Example: dutchdoor targets probe routes.yaml local --write
    """
    loaded = load_routes(path)
    targets = _chosen(loaded, names)
    count = REQUESTS * len(targets)
    if not quiet:
        click.echo(f"asking {', '.join(targets)}: at most {count} requests of 8 tokens", err=True)
    findings = asyncio.run(_probe(targets, timeout))
    if write:
        set_abilities(path, {name: merged(targets[name].can, each) for name, each in findings.items()})
    if format_ == "json":
        click.echo(msgspec.json.encode(findings).decode())
    else:
        for name, each in findings.items():
            for finding in each:
                mark = MARKS[finding.verdict]
                click.echo(f"{name}  {finding.ability:<14}  {mark:<14}  {finding.because}")
    told = any(finding.verdict != "unknown" for each in findings.values() for finding in each)
    return Exit.CLEAN if told else Exit.INCONCLUSIVE


def _chosen(loaded: LoadedRoutes, names: tuple[str, ...]) -> dict[str, TargetRow]:
    """The targets to ask: those named, else all that speak OpenAI's dialect over HTTP."""
    for name in names:
        if name not in loaded.targets:
            hint = f"targets: {', '.join(loaded.targets)}"
            raise DocumentError(f"{loaded.path}: there is no target {name!r}", hint=hint)
    asked = {name: loaded.targets[name] for name in dict.fromkeys(names)} if names else loaded.targets
    found = {name: row for name, row in asked.items() if _address(row) is not None}
    for name in asked:
        if name not in found and names:
            raise DocumentError(
                f"{loaded.path}: {name} is no HTTP target of OpenAI's dialect",
                hint="what engines and adapters can do is known",
            )
    if not found:
        raise DocumentError(f"{loaded.path}: there is no HTTP target to ask")
    return found


def _address(row: TargetRow) -> str | None:
    if row.provider is None:
        return row.url
    provider = PROVIDERS[row.provider]
    return None if provider.adapter else provider.base_url


async def _probe(targets: Mapping[str, TargetRow], timeout_s: float) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for name, row in targets.items():
        url, model = _address(row), row.model
        assert url is not None and model is not None
        variable = row.key_env or (PROVIDERS[row.provider].key_env if row.provider else None)
        found[name] = await Probe(url, model, key_from(variable, name), timeout_s=timeout_s).run()
    return found
