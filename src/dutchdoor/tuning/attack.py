"""One attack as a process of its own: `python -m dutchdoor.tuning.attack SPEC.json`.

A process, so that it can be stopped at any time, its memory comes back, and torch never enters the caller.
Prints one JSON line for every few steps to stdout, and at the end `{"done": true, …}` or `{"error": …}`. Exit
code 0, or 1 with an error line.
"""

import sys
from pathlib import Path

import msgspec

from dutchdoor.core import DutchdoorError
from dutchdoor.tuning.lora import AttackStep, LoraRung, attack


class AttackSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to attack, with what, and where the result goes (`out` must not exist)."""

    model: str
    attack_set: str
    rung: LoraRung
    seed: int = 0
    out: str
    threads: int | None = None
    report_every: int = 10


def main(arguments: list[str]) -> int:
    """Runs the attack of a spec file."""
    if len(arguments) != 1:
        print("usage: python -m dutchdoor.tuning.attack SPEC.json", file=sys.stderr)
        return 2
    try:
        spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=AttackSpec)
    except (OSError, msgspec.MsgspecError) as error:
        _tell({"error": f"can't read the attack's spec: {error}", "hint": None})
        return 1
    try:
        result = attack(
            Path(spec.model), Path(spec.attack_set), spec.rung, spec.seed, Path(spec.out),
            threads=spec.threads, report=_step, report_every=spec.report_every,
        )  # fmt: skip
    except DutchdoorError as error:
        _tell({"error": error.message, "hint": error.hint})
        return 1
    _tell({"done": True, **msgspec.to_builtins(result)})
    return 0


def _step(step: AttackStep) -> None:
    _tell(msgspec.to_builtins(step))


def _tell(value: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
