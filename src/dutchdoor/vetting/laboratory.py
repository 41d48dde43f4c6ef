"""Where models are set up for vetting: opened, put behind their guard, reached at a URL, or attacked.

The attack itself is a program of its own (`python -m dutchdoor.tuning.attack`): it needs torch, which this
process then never loads, and it can be stopped. Its results are kept under the digest of all they depend
on.
"""

import asyncio
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec

from dutchdoor import __version__
from dutchdoor.core import EngineError, MissingExtraError, digest_file, digest_value
from dutchdoor.engines.interface import Engine
from dutchdoor.evidence.record import Rung
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Member
from dutchdoor.vetting.cores import cores_here
from dutchdoor.vetting.runner import CONCURRENCY, REMOTE_CONCURRENCY, BelowGuard, Judged
from dutchdoor.vetting.sandbox import CodeSandbox
from dutchdoor.vetting.scorers import REFUSAL_PATTERNS, score, score_code
from dutchdoor.vetting.suites import Case, load_suite

Tell = Callable[["Line"], None]
ATTACK = (sys.executable, "-m", "dutchdoor.tuning.attack")
LAST_WORDS = 400  # characters of a failed attack's stderr that are shown
REMOTE_SILENCE_S = 120.0  # for one answer of a member served elsewhere, before it counts as stuck
GRACE_S = 5.0  # an attack that is stopped has so long to end by itself


class Laboratory(Protocol):
    """What vetting needs of the world; tests have one without models. Entered once for a whole call."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def ready_to_attack(self) -> None:
        """Raise MissingExtraError where attacks can't run."""

    async def open(self, path: Path, threads: int) -> Engine:
        """An engine over weights in hand."""

    def behind_guard(self, engine: Engine, loaded: LoadedFamily, member: Member) -> Engine:
        """The engine with the member's declared system prompt and guard before it."""

    async def reach(self, member: Member) -> Engine:
        """An engine over the URL where a member is served."""

    async def attack(
        self, source: Path, digest: str, rung: Rung, attack_set: Path, refused: Path, tell: Tell
    ) -> Path:
        """The weights with an attack merged into them, as a model folder. `refused` are the held-out prompts."""

    async def score(self, case: Case, text: str) -> Judged:
        """What an answer is worth."""


class HomeLaboratory:
    """This machine. `cache` is the private folder for conversions and tampered weights.

    A member that is served elsewhere is asked `remote` questions at a time and waited for `silence_s` seconds.
    """

    def __init__(
        self, cache: Path, remote: int = REMOTE_CONCURRENCY, silence_s: float = REMOTE_SILENCE_S
    ) -> None:
        self.cache, self.remote, self.silence_s = cache, remote, silence_s
        self._sandbox = CodeSandbox(workers=cores_here())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sandbox.__aexit__(kind, error, trace)

    def ready_to_attack(self) -> None:
        """Raise MissingExtraError naming the extra, before anything was measured in vain."""
        for module in ("torch", "transformers", "peft"):
            if importlib.util.find_spec(module) is None:
                raise MissingExtraError(
                    "the tampered threat (pass --threat guarded to leave it out)", extra="vet"
                )

    async def open(self, path: Path, threads: int) -> Engine:
        from dutchdoor.engines.load import open_engine

        return await open_engine(path, threads=threads, parallel=CONCURRENCY, cache=self.cache, prefer=None)

    def behind_guard(self, engine: Engine, loaded: LoadedFamily, member: Member) -> Engine:
        from dutchdoor.engines.guard import guarded, load_guard

        serve = member.serve
        prompt = loaded.resolve(serve.system_prompt).read_text("utf-8") if serve.system_prompt else None
        guard = load_guard(loaded.resolve(serve.guard)) if serve.guard else None
        return guarded(BelowGuard(engine), prompt, guard)

    async def reach(self, member: Member) -> Engine:
        from dutchdoor.engines.http import HttpEngine

        target = member.serve.target
        assert target is not None
        key = os.environ.get(target.key_env) if target.key_env else None
        if target.key_env and not key:
            raise EngineError(f"{target.url} needs a key, and the variable {target.key_env} is not set")
        return HttpEngine(target.url, target.model, key, silence_s=self.silence_s, connections=self.remote)

    async def score(self, case: Case, text: str) -> Judged:
        if case.scorer == "code":
            return await score_code(self._sandbox, case.target, text)
        return score(case.scorer, case.target, case.choices, text)

    async def attack(
        self, source: Path, digest: str, rung: Rung, attack_set: Path, refused: Path, tell: Tell
    ) -> Path:
        """Run the attack, or take it from the cache. Raises EngineError with its last words if it failed.

        One that is stopped goes on from where it was when it is run again.
        """
        key = digest_value(
            {
                "kind": "dutchdoor/tampered@2",
                "weights": digest,
                "rung": rung,
                "refused": digest_file(refused),  # nothing is trained on them
                "refusals": list(REFUSAL_PATTERNS),
                "code": __version__,
            }
        )
        home = self.cache / "tampered"
        done = home / key.removeprefix("sha256:")
        resume = home / f".resume-{done.name}"
        if (done / "config.json").exists():  # a folder gets this name only when it is whole
            return done
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=home, prefix=".new-"))
        try:
            spec = work / "SPEC.json"
            made = attack_spec(source, rung, attack_set, work / "merged", refused, resume)
            spec.write_bytes(msgspec.json.encode(made))
            try:
                await _run_attack(spec, tell)
            except EngineError:  # it would fail again from there
                shutil.rmtree(resume, ignore_errors=True)
                raise
            shutil.rmtree(resume, ignore_errors=True)
            if not (work / "merged" / "config.json").exists():
                raise EngineError(f"the attack {rung.label} ended without writing a model")
            try:
                (work / "merged").rename(done)
            except OSError:
                if not (done / "config.json").exists():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return done


def attack_spec(
    source: Path, rung: Rung, attack_set: Path, out: Path, refused: Path, checkpoint: Path
) -> dict[str, object]:
    """The file that `python -m dutchdoor.tuning.attack` reads: `AttackSpec` there, with one thread."""
    held_out = [
        [{"role": message.role, "content": message.content} for message in case.conversation()]
        for case in load_suite(refused).cases
    ]
    budget = {"attack": rung.attack, "steps": rung.steps, "examples": rung.examples}
    return {
        "model": str(source.resolve()),
        "attack_set": str(attack_set.resolve()),
        "rung": {**budget, **rung.settings},
        "seed": rung.seed,
        "out": str(out.resolve()),
        "threads": 1,
        "refusals": list(REFUSAL_PATTERNS),
        "refused": held_out,
        "checkpoint": str(checkpoint.resolve()),
    }


class Line(msgspec.Struct, frozen=True):
    """What the program prints: how far it is, or how it ended."""

    step: int = 0
    steps: int = 0
    loss: float = math.nan
    seconds: float = 0.0
    error: str | None = None
    done: bool = False
    diverged: bool = False


async def _run_attack(spec: Path, tell: Tell) -> None:
    """Run the program on one thread, telling how far it is. Stopped when this is cancelled."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = await asyncio.create_subprocess_exec(
        *ATTACK,
        str(spec),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **one_thread, "TOKENIZERS_PARALLELISM": "false"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    last = Line()
    try:
        async for text in process.stdout:
            try:
                last = msgspec.json.decode(text, type=Line)
            except msgspec.MsgspecError:  # a word of some library
                continue
            if last.step:  # the last line tells how it ended, not how far it is
                tell(last)
        code = await process.wait()
        words = " ".join((await errors).decode(errors="replace").split())
    finally:
        errors.cancel()
        await _stop(process)
    if code != 0:
        raise EngineError(f"the attack failed: {last.error or f'exit code {code}: {words[-LAST_WORDS:]}'}")
    if last.diverged:
        raise EngineError("the attack diverged, which proves nothing: its learning rate may be too high")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
