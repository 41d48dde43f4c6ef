"""`dutchdoor compare`: two models on the same questions, in one screen."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dutchdoor.cli.options import (
    config_folder,
    data_folder,
    data_option,
    format_option,
    progress_console,
    quiet_option,
)
from dutchdoor.core import DutchdoorError, UsageError

MOST_STREAMS = 64


@click.command(
    "compare",
    epilog="Example: dutchdoor compare ./s.gguf https://example.org/v1#large --cases my.jsonl --margin 0.05",
)
@click.argument("a")
@click.argument("b")
@click.option(
    "--cases",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL with your questions: {id, prompt, scorer, target}.  [default: 20 prompts, a smoke test]",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, max_open=True),
    help="How much worse A may be than B, as a fraction of the cases: 0.05 is five points. Exit 0, 10 or 3.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of each bound, one-sided.",
)
@click.option("--price-a", metavar="IN,OUT", help="What A costs, USD per million tokens: 0.40,1.20")
@click.option("--price-b", metavar="IN,OUT", help="What B costs.")
@click.option(
    "--key-env-a", metavar="NAME", help="Environment variable with A's key.  [default: the provider's own]"
)
@click.option("--key-env-b", metavar="NAME", help="Environment variable with B's key.")
@click.option(
    "--max-tokens", type=click.IntRange(1), help="Of an answer.  [default: each case's own; 64 for prompts]"
)
@click.option(
    "--streams",
    type=click.IntRange(1, MOST_STREAMS),
    default=4,
    show_default=True,
    help="Requests at a time, where it is not one.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="For each measurement of speed, at most. Cases are always all asked.",
)
@click.option("--routes", type=click.Path(dir_okay=False, path_type=Path), help="Write the routes file here.")
@click.option(
    "--answers", type=click.IntRange(0), default=3, show_default=True, help="Answers shown side by side."
)
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Trust this public key.",
)
@format_option("text", "json", "markdown")
@data_option()
@quiet_option()
def command(**options: Any) -> int:
    """Compare two models on the same questions: quality, speed, cost, licence.

    A and B are each a folder, a .gguf file, a bundle, family.yaml#MEMBER, or URL#MODEL. A is the candidate:
    the difference is A - B. Without --cases nothing is said about quality.

    Exit 0; with --margin 0 if A is not worse by more, 10 if it is, 3 if that can't be told.
    """
    from dutchdoor.drill import render
    from dutchdoor.drill.compare import compare, exit_code

    request, place = _request(options)
    target: Path | None = options["routes"]
    if target is not None and target.exists():
        raise UsageError(f"{target} exists already", hint="name another file, or remove it first")
    with _Watch(progress_console(options["quiet"])) as watch:
        report = asyncio.run(compare(request, place, watch))
    if target is not None:
        _write(target, report.routes)
    match options["format_"]:
        case "json":
            print(json.dumps(msgspec.to_builtins(report), indent=2, ensure_ascii=False))
        case "markdown":
            print(render.markdown(report, answers=options["answers"]), end="")
        case _:
            width = shutil.get_terminal_size((100, 40)).columns if sys.stdout.isatty() else 100
            print(render.text(report, answers=options["answers"], width=width, routes_at=target), end="")
    return int(exit_code(report))


def _request(options: dict[str, Any]) -> tuple[Any, Any]:
    from dutchdoor.drill.addresses import parse_address
    from dutchdoor.drill.candidates import Options, Place
    from dutchdoor.drill.compare import Request
    from dutchdoor.drill.cost import parse_price
    from dutchdoor.evidence.signing_keys import trusted_keys

    if options["margin"] is not None and options["cases"] is None:
        raise UsageError(
            "--margin needs --cases", hint="the bundled prompts are a smoke test and judge no quality"
        )

    def side(letter: str) -> Options:
        text = options[f"price_{letter}"]
        said = None if text is None else parse_price(f"--price-{letter}", text)
        return Options(letter="a" if letter == "a" else "b", key_env=options[f"key_env_{letter}"], price=said)

    request = Request(
        a=parse_address(options["a"]),
        b=parse_address(options["b"]),
        options_a=side("a"),
        options_b=side("b"),
        cases=options["cases"],
        margin=options["margin"],
        confidence=options["confidence"],
        max_tokens=options["max_tokens"],
        streams=options["streams"],
        limit_s=options["seconds"],
    )
    place = Place(
        data=data_folder(None, options["data"]),
        trusted=trusted_keys(config_folder(), options["trust"]),
        streams=options["streams"],
    )
    return request, place


def _write(target: Path, routes: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(routes)
    except OSError as error:
        raise DutchdoorError(f"can't write {target}: {error.strerror}") from error


class _Watch:
    """A bar for each side: what it does, how far it is, the time left."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, transient=True)
        self._bar: dict[str, tuple[str, TaskID]] = {}

    def __enter__(self) -> "_Watch":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, side: str, what: str, done: int, total: int) -> None:
        stage, bar = self._bar.get(side, ("", None))
        if bar is None or stage != what:  # a stage has its own rate
            if bar is not None:
                self._bars.remove_task(bar)
            bar = self._bars.add_task(f"{side} {what}", total=total or None)
            self._bar[side] = (what, bar)
        self._bars.update(bar, completed=done)
