"""How long things took the last time, so that a plan can say how long they will take.

Kept in the cache, a line a model; losing it costs nothing but the forecast.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from dutchdoor.evidence.store import write_atomically
from dutchdoor.vetting.plan import Job, Setting
from dutchdoor.vetting.report import Due

FILE = "pace.json"


class Pace:
    """Seconds a case and seconds an attack's step, by model. `folder` is the cache."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._known: dict[str, float] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError):  # a forecast is no reason to stop
            self._known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])

    def cases(self, setting: Setting, seconds: float) -> None:
        """Note what a case took, with as many in flight as there were."""
        self._note(f"case {_model(setting)} {setting.threat.value}", seconds)

    def attack(self, setting: Setting, seconds: float) -> None:
        """Note what a step of an attack took."""
        assert setting.rung is not None
        self._known[f"step {_model(setting)} {setting.rung.attack}"] = seconds

    def forecast(self, setting: Setting, cases: int) -> float | None:
        """Seconds for so many cases in this setting and the attack before them; null where nothing is known."""
        model = _model(setting)
        threats = ([setting.threat.value] if setting.rung is None else []) + ["tampered", "guarded"]
        known = [self._known.get(f"case {model} {threat}") for threat in threats]
        a_case = next((each for each in known if each is not None), None)
        if a_case is None:
            return None
        if setting.rung is None:
            return a_case * cases
        a_step = self._known.get(f"step {model} {setting.rung.attack}")
        return None if a_step is None else a_case * cases + a_step * setting.rung.steps

    def _note(self, key: str, seconds: float) -> None:
        self._known[key] = seconds
        write_atomically(self._path, msgspec.json.encode(self._known))


def _model(setting: Setting) -> str:
    return f"{setting.member}/{setting.variant}"


def cost(jobs: Sequence[Job], counts: Mapping[str, int], pace: Pace) -> Due:
    """What these jobs come to; `counts` are the cases of each suite, by digest.

    Settings are added up as if one came after the other; some run beside each other.
    """
    cases: dict[Setting, int] = {}
    for job in jobs:
        cases[job.setting] = cases.get(job.setting, 0) + counts[job.suite_digest]
    forecasts = [pace.forecast(setting, count) for setting, count in cases.items()]
    known = [each for each in forecasts if each is not None]
    return Due(
        cases=sum(cases.values()),
        attacks=sum(setting.rung is not None for setting in cases),
        settings=len(cases),
        settings_without_forecast=len(forecasts) - len(known),
        seconds=sum(known) if len(known) == len(forecasts) else None,
    )
