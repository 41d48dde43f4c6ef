"""Full fine-tuning: every weight is trained, on the same examples and with the same loss as LoRA.

Trains and writes f32, also where the weights are bf16: AdamW's steps are smaller than bf16 can hold, and
steps that are rounded away would flatter the model. That takes 16 bytes a parameter (weight, gradient, two
moments) and the activations; what does not fit is refused before it is begun. Models that are not small
recompute activations instead of keeping them.
"""

from pathlib import Path
from typing import Any

from dutchdoor.core import WeightsError
from dutchdoor.tuning.record import AttackResult, AttackSpec, FullRung
from dutchdoor.tuning.training import Course, Report, Trainee, material_of
from dutchdoor.tuning.weights import begin, load

RECOMPUTE_FROM = 100_000_000  # parameters: below, activations are small and recomputing costs a third
TRAINING_BYTES = 12  # a parameter, beside the loaded weight: gradient and two moments in f32


def run_full(spec: AttackSpec, rung: FullRung, report: Report | None = None) -> AttackResult:
    """Attacks the weights in a folder and writes them to `spec.out`; raises and returns as `run_lora` does."""
    at = begin(spec)
    torch, transformers, device = at.torch, at.transformers, at.device
    tokenizer, model = load(transformers, Path(spec.model), torch.float32, device)
    material = material_of(spec)
    parameters = list(model.parameters())  # a tied weight comes once
    size = sum(p.numel() for p in parameters)
    _must_fit(size * TRAINING_BYTES, free_memory(torch, device))
    if size >= RECOMPUTE_FROM and model.supports_gradient_checkpointing:
        recompute(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
    trainee = Trainee(model, parameters, lambda: model)
    course = Course(torch, transformers, spec, rung, tokenizer, trainee, material, device, report, at.started)
    return course.run()


def recompute(model: Any) -> None:
    """Recompute activations instead of keeping them, under whichever name transformers has for it."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def free_memory(torch: Any, device: str) -> int | None:
    """Bytes that can be had on the device; null where that can't be told. Limits of containers are not read."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _must_fit(needed: int, free: int | None) -> None:
    if free is not None and needed > free:
        raise WeightsError(
            f"full fine-tuning needs {needed / 1e9:.1f} GB beside the weights, and {free / 1e9:.1f} are free",
            hint="use a machine with more memory, or a rung with attack: lora",
        )
