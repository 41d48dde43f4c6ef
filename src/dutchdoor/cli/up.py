"""`dutchdoor up`: the whole way of a release with a live display, what came of it, and a running server."""

import asyncio
import json
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dutchdoor.cli.live import Display
from dutchdoor.cli.options import (
    config_folder,
    data_console,
    data_folder,
    data_option,
    progress_console,
    quiet_option,
    trust_option,
)
from dutchdoor.core import Exit

if TYPE_CHECKING:
    from dutchdoor.gateway.app import Gateway
    from dutchdoor.gateway.protocol.server import GatewayServer
    from dutchdoor.ledger.keys import NewKey
    from dutchdoor.release.up import Gap, Place, Release

EXAMPLE = Path("examples/gable/family.yaml")


@click.command("up")
@click.argument("manifest", metavar="[FAMILY.yaml]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--once", is_flag=True, help="Stop after each served member has answered one request over HTTP."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dist"),
    show_default=True,
    help="Folder for the bundles, one folder a member.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    envvar="DUTCHDOOR_PORT",
    show_envvar=True,
    help="Port to listen on; 0 takes a free one.",
)
@trust_option("A public key file whose evidence counts, besides your own and those in the trust folder.")
@data_option()
@quiet_option()
def command(
    manifest: Path | None,
    once: bool,
    out: Path,
    host: str,
    port: int,
    trust: tuple[Path, ...],
    data: Path | None,
    quiet: bool,
) -> int:
    """Walk the whole way of a release, then serve.

    Vets, decides, packs and checks; what an earlier run measured and still holds is reused. Without FAMILY.yaml
    it takes ./family.yaml, else examples/gable. Ends on Ctrl-C. Exit code 3 when nothing may be served yet.

    Example: dutchdoor up examples/gable/family.yaml --once
    """
    from dutchdoor.release.up import Place

    chosen = manifest or (Path("family.yaml") if Path("family.yaml").exists() else EXAMPLE)
    place = Place(data=data_folder(chosen, data), out=out, host=host, port=port)
    return asyncio.run(_up(chosen, place, trust, once=once, quiet=quiet))


async def _up(manifest: Path, place: "Place", trust: Sequence[Path], *, once: bool, quiet: bool) -> int:
    from dutchdoor.cli.decide import render
    from dutchdoor.evidence.signing_keys import own_key, trusted_keys
    from dutchdoor.family.load import load_family
    from dutchdoor.gateway.routing.family import served_members
    from dutchdoor.policy.decide import load_policies
    from dutchdoor.release.up import greeting, serving, walk

    started = time.monotonic()
    loaded = load_family(manifest)
    policies = load_policies(loaded)
    signer = own_key(config_folder())
    trusted = trusted_keys(config_folder(), trust)
    progress, console = progress_console(quiet), data_console()
    with Display(progress) as display:
        release = await walk(
            loaded,
            policies,
            place,
            signer,
            trusted,
            progress=display.step,
            say=display.say,
        )
    for warning in release.report.warnings:
        click.echo(f"warning: {warning}", err=True)
    family = loaded.family
    console.print(Text(f"{family.family} {family.version}, {family.publisher.name}", "bold"))
    console.print(render(release.decision, manifest, policies))
    console.print(bundles(release), soft_wrap=True)
    if release.gaps:
        console.print(gaps(release.gaps))
    if not served_members(loaded, release.decision):
        console.print("\nno member's API is open, so nothing is served")
        return Exit.INCONCLUSIVE
    async with serving(loaded, release.decision, place) as (server, key):
        console.print(f"\nready after {time.monotonic() - started:.1f} s", highlight=False)
        question = greeting(policies)
        if once:
            await _greet_all(server, key, question, console)
            return Exit.CLEAN
        model = next(iter(server.app.routes))
        console.print(how_to_ask(server.base_url, key, model, question), soft_wrap=True)
        await _until_asked_to_stop(server)
    return Exit.CLEAN


def bundles(release: "Release") -> RenderableType:
    """Where the bundles are, and how to check them."""
    if not release.bundles:
        return Text("\nno bundle: no member's weights may leave")
    lines = [Text(), Text("bundles, each packed, signed and checked", "bold")]
    for bundle in release.bundles:
        lines.append(Text(f"  {bundle.folder}  {bundle.files} files"))
    program = shlex.quote(_program())
    lines.append(Text(f"  check one:  {program} verify {shlex.quote(str(release.bundles[0].folder))}"))
    lines.append(Text(f"  try one:    {program} run {shlex.quote(str(release.bundles[0].folder))}"))
    return Group(*lines)


def gaps(found: Sequence["Gap"]) -> RenderableType:
    """How each open member compares with the flagship: the difference on the same cases, with its interval."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), header_style="bold")
    table.add_column("open against flagship", no_wrap=True)
    table.add_column("skill", no_wrap=True)
    for name in ("difference", "95 % bounds", "cases"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for gap in found:
        each = gap.measure
        value = "–" if each.value is None else f"{100 * each.value:+.1f} pp"
        interval = f"{100 * each.lower:+.1f} to {100 * each.upper:+.1f} pp"
        table.add_row("" if gap.member == last else gap.member, gap.skill, value, interval, str(each.n))
        last = gap.member
    return Group(Text(), table)


def how_to_ask(base_url: str, key: "NewKey", model: str, question: str) -> RenderableType:
    """One curl that works, with a fresh key."""
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": question}]}, ensure_ascii=False
    )
    headers = f"-H 'Authorization: Bearer {key.key}' -H 'Content-Type: application/json'"
    curl = f"curl {base_url}/chat/completions {headers} -d {shlex.quote(body)}"
    return Group(
        Text(f"serving at {base_url}; Ctrl-C ends it", "bold"),
        Text(f"  {curl}"),
        Text("  (the key is shown once, and holds until the next `up`)", "dim"),
    )


async def _greet_all(
    server: "GatewayServer[Gateway]", key: "NewKey", question: str, console: Console
) -> None:
    from dutchdoor.release.up import greet

    console.print(Text(f"asked over HTTP: {' '.join(question.split())}"))
    for model in server.app.routes:
        answer = await greet(server.base_url, model, key.key, question)
        said = " ".join(answer.text.split()) or "(nothing)"
        tokens = answer.usage.output_tokens if answer.usage else "?"
        console.print(Text(f"  {model}: {said}  ({tokens} tokens, {answer.total_s:.2f} s)"))


async def _until_asked_to_stop(server: "GatewayServer[Gateway]") -> None:
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            server.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, asked)
    ended, stopping = asyncio.ensure_future(server.wait()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


def _program() -> str:
    """How this program was called: a path to it, else its name."""
    called = os.environ.get("_", "")
    return called if called.endswith("dutchdoor") else "dutchdoor"
