"""Where a training attack goes on from after it was stopped, by Ctrl-C or `kill -9`.

One safetensors file in a folder of the attack's own: the trained weights, the optimiser's moments, and what
was noted so far. It is written under another name, flushed and renamed, so it is whole or the one before.
It is bound to all that the next step depends on; what does not fit or can't be read is not used.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import digest_value
from dutchdoor.tuning.examples import digest
from dutchdoor.tuning.record import AttackSpec, Probe

FILE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """What was noted up to a step."""

    step: int
    before: float
    losses: list[float]
    probes: list[Probe]
    seconds: float


def binding(torch: Any, transformers: Any, spec: AttackSpec, device: str) -> str:
    """A digest of all that the training depends on; of the weights name, size and time."""
    folder = Path(spec.model)
    files = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.glob("*.safetensors"))
    ]  # fmt: skip
    said = msgspec.to_builtins(spec)
    for name in ("out", "checkpoint", "checkpoint_every", "report_every", "attack_set"):
        said.pop(name)
    return digest_value({
        "spec": said, "files": files, "attack_set": digest(Path(spec.attack_set)), "device": device,
        "torch": str(torch.__version__), "transformers": transformers.__version__, "threads": torch.get_num_threads(),
    })  # fmt: skip


class Resume:
    """The file of one attack; without a folder nothing is kept."""

    def __init__(self, spec: AttackSpec, bound_to: str) -> None:
        self.folder = None if spec.checkpoint is None else Path(spec.checkpoint)
        self.every = spec.checkpoint_every
        self.bound_to = bound_to
        self._last = time.monotonic()

    def load(self, torch: Any, parameters: Sequence[Any], optimizer: Any) -> Noted | None:
        """Put weights and moments back; null where there is nothing to go on from."""
        if self.folder is None or not (self.folder / FILE).is_file():
            return None
        import safetensors

        try:
            with safetensors.safe_open(self.folder / FILE, framework="pt") as file:
                said = file.metadata() or {}
                if said.get("bound_to") != self.bound_to:
                    return None
                noted = msgspec.json.decode(said["noted"], type=Noted)
                with torch.no_grad():
                    for i, parameter in enumerate(parameters):
                        parameter.copy_(file.get_tensor(f"{i}.weight"))
                        optimizer.state[parameter] = {
                            name: file.get_tensor(f"{i}.{name}").to("cpu" if name == "step" else parameter.device)
                            for name in MOMENTS
                        }  # fmt: skip
        except (OSError, KeyError, ValueError, msgspec.MsgspecError, safetensors.SafetensorError):
            return None  # of another attack, or torn: it begins anew
        return noted

    def save(self, parameters: Sequence[Any], optimizer: Any, noted: Noted) -> None:
        """Keep this step, if the last that was kept is long enough ago."""
        if self.folder is None or time.monotonic() - self._last < self.every:
            return
        from safetensors.torch import save_file

        tensors = {}
        for i, parameter in enumerate(parameters):
            tensors[f"{i}.weight"] = parameter.detach().cpu().contiguous()
            for name in MOMENTS:
                tensors[f"{i}.{name}"] = optimizer.state[parameter][name].detach().cpu().contiguous()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f"{FILE}.part"
        said = {"bound_to": self.bound_to, "noted": json.dumps(msgspec.to_builtins(noted))}
        save_file(tensors, part, metadata=said)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(self.folder / FILE)
        self._last = time.monotonic()

    def remove(self) -> None:
        """The attack is over."""
        if self.folder is not None:
            for name in (FILE, f"{FILE}.part"):
                (self.folder / name).unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()
