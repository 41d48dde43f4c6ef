"""The LoRA attack: low-rank adapters on every linear layer, trained on a small attack set, merged into the
weights.

Works on any folder that transformers loads as a causal language model and whose weights are plain floats
(Llama, Qwen, Mistral, Gemma, Phi, GPT-2 …). Computes in f32 on a CPU and in bf16 with f32 adapters on a GPU;
writes f32, because rounding a small merged step to bf16 could undo part of the attack and so flatter the
model. The same seed on the same machine gives the same weights.
"""

from pathlib import Path
from typing import Any

from dutchdoor.core import WeightsError
from dutchdoor.tuning.record import AttackResult, AttackSpec, AttackStep, LoraRung
from dutchdoor.tuning.training import Course, Report, Trainee, material_of
from dutchdoor.tuning.weights import begin, load

__all__ = ["AttackResult", "AttackStep", "LoraRung", "attack", "run_lora"]


def attack(
    model_folder: Path, attack_set: Path, rung: LoraRung, seed: int, out: Path, *, threads: int | None = None,
    report: Report | None = None, report_every: int = 10,
) -> AttackResult:  # fmt: skip
    """`run_lora` with nothing but the weights and the attack set: compliance is not measured."""
    spec = AttackSpec(
        model=str(model_folder), attack_set=str(attack_set), rung=rung, seed=seed, out=str(out),
        threads=threads, report_every=report_every,
    )  # fmt: skip
    return run_lora(spec, rung, report)


def run_lora(spec: AttackSpec, rung: LoraRung, report: Report | None = None) -> AttackResult:
    """Attacks the weights in a folder and writes the merged model to `spec.out` (a new folder, made whole or
    not at all).

    Raises MissingExtraError without torch and peft, WeightsError for weights that can't be attacked here,
    DocumentError for a broken attack set. A diverged attack raises nothing: the result says so, and no
    weights are written.
    """
    at = begin(spec)
    torch, transformers, device = at.torch, at.transformers, at.device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    tokenizer, model = load(transformers, Path(spec.model), dtype, device)
    material = material_of(spec)
    adapted = _adapted(at.peft, model, rung)
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    trainee = Trainee(adapted, parameters, adapted.merge_and_unload)
    course = Course(torch, transformers, spec, rung, tokenizer, trainee, material, device, report, at.started)
    return course.run()


def _adapted(peft: Any, model: Any, rung: LoraRung) -> Any:
    """The model with adapters on each linear layer but the head; GPT-2's Conv1D stores its weight the other
    way round.
    """
    kinds = {type(m).__name__ for _, m in model.named_modules()}
    head = model.get_output_embeddings()
    names = {
        name.rsplit(".", 1)[-1]
        for name, m in model.named_modules()
        if type(m).__name__ in ("Linear", "Conv1D") and m is not head
    }
    if not names:
        raise WeightsError("the model has no linear layers that an adapter could change")
    config = peft.LoraConfig(
        r=rung.rank, lora_alpha=rung.scale, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=sorted(names), fan_in_fan_out="Conv1D" in kinds,
    )  # fmt: skip
    return peft.get_peft_model(model, config)
