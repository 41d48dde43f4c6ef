"""One attack as a process of its own: `python -m dutchdoor.tuning.attack SPEC.json`.

A process, so that it can be stopped at any time, its memory comes back, and torch never enters the caller.
Prints one JSON line for every few steps to stdout, and at the end `{"done": true, …}` or `{"error": …}`. Notes
go to stderr too. Exit code 0, or 1 with an error line.
"""

import sys
from pathlib import Path

import msgspec

from dutchdoor.core import DutchdoorError
from dutchdoor.tuning.record import AblationRung, AttackResult, AttackSpec, AttackStep, FullRung
from dutchdoor.tuning.training import Report

__all__ = ["AttackSpec", "main", "run"]


def run(spec: AttackSpec, report: Report | None = None) -> AttackResult:
    """The attack that the spec's rung names; see `run_lora` for what it raises."""
    if isinstance(spec.rung, AblationRung):
        from dutchdoor.tuning.ablation import run_ablation

        return run_ablation(spec, spec.rung, report)
    if isinstance(spec.rung, FullRung):
        from dutchdoor.tuning.full import run_full

        return run_full(spec, spec.rung, report)
    from dutchdoor.tuning.lora import run_lora

    return run_lora(spec, spec.rung, report)


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
        result = run(spec, _step)
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
