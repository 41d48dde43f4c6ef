"""`dutchdoor run`: verify a bundle, open its engine, chat or answer once. Offline.

What is run is what was verified: a bundle is copied into the user's private store while it is hashed, and
loaded from there.
"""

import asyncio
import io
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import click

from dutchdoor.cli.main import shown
from dutchdoor.cli.options import config_folder, quiet_option, trust_option
from dutchdoor.core import DutchdoorError, Exit, UsageError
from dutchdoor.engines.interface import ChatRequest, Engine, Message
from dutchdoor.evidence.signing_keys import PublicKey, trusted_keys

STREAMS = 1  # a chat has one reader
MOST_FINDINGS = 10
OURS = "dutchdoor"  # the folder in a bundle that holds what we say about it
HELP = "Ctrl-C stops an answer; /clear forgets the chat; /exit, Ctrl-C or Ctrl-D at the prompt ends."


@click.command()
@click.argument("model", metavar="BUNDLE|MODEL", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("--system", metavar="TEXT", help="A system prompt, put first.")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="The most an answer may hold.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 is always the likeliest token.",
)
@click.option("--seed", type=int, help="Makes answers at a temperature repeatable.")
@trust_option("A public key file to trust in this run.  [default: your own key and those you trust]")
@click.option(
    "--engine",
    "prefer",
    type=click.Choice(["fast", "transformers"]),
    help="Insist on an engine.  [default: fast where it can take the model]",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads to compute with.  [default: physical cores]"
)
@click.option(
    "--in-place", is_flag=True, help="Load a bundle from where it lies: only for a folder of your own."
)
@quiet_option()
def command(
    model: Path,
    prompt: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    trust: tuple[Path, ...],
    prefer: Literal["fast", "transformers"] | None,
    threads: int | None,
    in_place: bool,
    quiet: bool,
) -> int:
    """Chat with a bundle, a Hugging Face folder or a .gguf file on this machine, or answer one PROMPT.

    A bundle is verified first: what does not hold is not run (exit 10), nor is one signed by a key that you
    do not trust (exit 3). PROMPT `-` is all of stdin; without PROMPT, each line of stdin is a question of one
    chat.

    Verified bundles and converted weights are kept under ~/.cache/dutchdoor (env XDG_CACHE_HOME,
    DUTCHDOOR_STORE).

    Example: dutchdoor run dist/gable-s "What is 12 + 30?"
    """
    say: Callable[[str], None] = (lambda text: None) if quiet else lambda text: click.echo(text, err=True)
    if isinstance(sys.stdin, io.TextIOWrapper) and not sys.stdin.isatty():
        sys.stdin.reconfigure(errors="replace")  # a byte that is not UTF-8 is shown as �, as in answers
    template = ChatRequest(messages=(), max_tokens=max_tokens, temperature=temperature, seed=seed)
    with asyncio.Runner() as runner:
        found = runner.run(_verified(model, trust, in_place, say))
        if isinstance(found, int):
            return found
        engine = runner.run(_open(found, prefer, threads))
        try:
            _introduce(engine, say)
            chat = Chat(runner, engine, template, system)
            return chat.once(sys.stdin.read() if prompt == "-" else prompt) if prompt else chat.talk(say)
        finally:
            runner.run(engine.close())


async def _verified(
    model: Path, trust: tuple[Path, ...], in_place: bool, say: Callable[[str], None]
) -> Path | int:
    """The folder or file to load; an exit code where it must not be."""
    # our folder alone makes it a bundle: one whose dossier was taken away must not pass for plain weights
    if not await asyncio.to_thread((model / OURS).exists):
        if trust or in_place:
            raise UsageError(f"{model} is no bundle: --trust and --in-place have nothing to check there")
        return model
    trusted = trusted_keys(config_folder(), trust)
    path, report = await _checked(model, trusted, in_place)
    if path is None:
        click.echo(f"{model} does not hold, so it is not run:", err=True)
        for finding in report.findings[:MOST_FINDINGS]:
            click.echo(f"  {finding.file}: {finding.what}", err=True)
        return Exit.AGAINST
    if not report.trusted:
        click.echo(
            f"{model} is valid, but signed by an unknown key {report.signer}, so it is not run", err=True
        )
        click.echo(
            f"\nhint: dutchdoor run {model} --trust KEYFILE, if the publisher names this key", err=True
        )
        return Exit.INCONCLUSIVE
    where = "in place: nobody else may be able to write there" if in_place else "from the private store"
    say(f"{model}: valid, signed by {report.signer}; loaded {where}")
    return path


async def _checked(model: Path, trusted: tuple[PublicKey, ...], in_place: bool) -> tuple[Path | None, Any]:
    from dutchdoor.bundle.store import admit, default_store
    from dutchdoor.bundle.verify import verify

    if in_place:
        report = await verify(model, trusted)
        return (None if report.findings else model), report
    admitted = await admit(model, trusted, default_store())
    return admitted.path, admitted.report


async def _open(path: Path, prefer: Literal["fast", "transformers"] | None, threads: int | None) -> Engine:
    from dutchdoor.bundle.store import default_store
    from dutchdoor.engines.load import open_engine

    cache = default_store().parent
    return await open_engine(path, threads=threads, parallel=STREAMS, cache=cache, prefer=prefer)


def _introduce(engine: Engine, say: Callable[[str], None]) -> None:
    info = engine.info
    because = f", because {info.because}" if info.because else ""
    context = f", {info.context_length} tokens of context" if info.context_length else ""
    plain = ", no chat template: asked as 'User: … Assistant:'" if info.plain_format else ""
    say(f"{info.model} on {info.name} ({info.version}){because}{context}{plain}")


class Chat:
    """One chat in the terminal, with what was said so far."""

    def __init__(
        self, runner: asyncio.Runner, engine: Engine, template: ChatRequest, system: str | None
    ) -> None:
        self._runner, self._engine, self._template = runner, engine, template
        self._first = (Message(role="system", content=readable(system)),) if system else ()
        self._said: tuple[Message, ...] = ()

    def once(self, question: str) -> int:
        """Answer one question. Ctrl-C ends the command."""
        self._runner.run(self._answer(question, []))
        return Exit.CLEAN

    def talk(self, say: Callable[[str], None]) -> int:
        """Question and answer until the end of stdin, /exit, or Ctrl-C at the prompt."""
        at_terminal = sys.stdin.isatty()
        if at_terminal:
            _remember_lines()
            say(HELP)
        while True:
            try:
                question = input("> " if at_terminal else "").strip()
            except (EOFError, KeyboardInterrupt):
                if at_terminal:
                    click.echo(err=True)
                return Exit.CLEAN
            if question == "/exit":
                return Exit.CLEAN
            if question == "/clear":
                self._said = ()
                say("forgotten")
            elif question.startswith("/") and " " not in question:
                say(f"unknown: {question}. {HELP}")
            elif question:
                self._turn(question, at_terminal)

    def _turn(self, question: str, at_terminal: bool) -> None:
        heard: list[str] = []
        try:
            self._runner.run(self._answer(question, heard))
        except KeyboardInterrupt:
            click.echo("\n(stopped)", err=True)
        except DutchdoorError as error:
            if not at_terminal:
                raise
            click.echo(
                shown(f"error: {error.message}" + (f"\nhint: {error.hint}, or /clear" if error.hint else "")),
                err=True,
            )
            return
        answer = Message(role="assistant", content="".join(heard))
        self._said = (*self._said, Message(role="user", content=readable(question)), answer)

    async def _answer(self, question: str, heard: list[str]) -> None:
        """Print an answer while it comes; `heard` gathers it, also where it is stopped."""
        from msgspec.structs import replace

        asked = Message(role="user", content=readable(question))
        request = replace(self._template, messages=(*self._first, *self._said, asked))
        inner: Any = self._engine.stream(request)
        finish = None
        async with aclosing(inner) as chunks:
            async for chunk in chunks:
                heard.append(chunk.text)
                click.echo(shown(chunk.text), nl=False)
                finish = chunk.finish_reason
        click.echo()
        if finish == "length":
            click.echo("(cut off: --max-tokens, or the model's context, is used up)", err=True)


def readable(text: str) -> str:
    """Text without lone surrogates, which is how Python hands over bytes that are not UTF-8."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _remember_lines() -> None:
    try:
        import readline  # arrow keys and history for input()
    except ImportError:
        return  # a Python without it: lines are typed plainly
    readline.set_history_length(1000)
