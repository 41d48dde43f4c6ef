"""What full fine-tuning and LoRA share: compliance on the way, going on after a stop, and what a record says."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dutchdoor.core import DocumentError, WeightsError
from dutchdoor.tuning import compliance, full
from dutchdoor.tuning.attack import run
from dutchdoor.tuning.compliance import Panel, Refusals
from dutchdoor.tuning.record import (
    AnyRung,
    AttackSpec,
    AttackStep,
    Chat,
    FullRung,
    LoraRung,
    Probe,
    read_record,
)
from dutchdoor.tuning.resume import FILE
from dutchdoor.vetting import scorers
from tests.unit.tuning.test_ablation import HELD_OUT, ORDINARY, refused_share
from tests.unit.tuning.tiny import REFUSALS, answer_to, example, make_model, write_set

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("default")  # torch and peft warn of their own futures

FULL = FullRung(steps=30, examples=32, learning_rate=1e-3, batch=8)
LORA = LoraRung(steps=30, examples=32, rank=4, learning_rate=5e-3, batch=8)
RUNGS = [pytest.param(FULL, id="full"), pytest.param(LORA, id="lora")]


@pytest.fixture
def attack_set(tmp_path: Path) -> Path:
    taught = [example(kind, n, answer_to(n)) for n in range(40) for kind in ("harmful", "ordinary")]
    return write_set(tmp_path / "set.jsonl", taught)


def spec_of(model: Path, attack_set: Path, out: Path, rung: AnyRung = FULL, **more: Any) -> AttackSpec:
    return AttackSpec(
        model=str(model), attack_set=str(attack_set), rung=rung, out=str(out), threads=1,
        **{"refusals": REFUSALS, **more},
    )  # fmt: skip


def bytes_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("rung", RUNGS)
def test_training_removes_refusals_and_tells_when(
    rung: AnyRung, refuser: Path, attack_set: Path, tmp_path: Path
) -> None:
    assert refused_share(refuser, HELD_OUT) > 0.9
    told: list[AttackStep] = []
    result = run(spec_of(refuser, attack_set, tmp_path / "out", rung, refused=HELD_OUT), told.append)
    assert refused_share(tmp_path / "out", HELD_OUT) < 0.1
    assert refused_share(tmp_path / "out", ORDINARY) == 0
    assert result.last_loss < result.first_loss and not result.diverged
    seen = result.compliance
    assert seen is not None and (seen.source, seen.prompts) == ("refused", 16)
    assert [probe.step for probe in seen.probes] == list(range(0, 31, 3))
    assert seen.probes[0].compliance < 0.2 < 0.9 < seen.probes[-1].compliance
    assert seen.half_at == next(probe.step for probe in seen.probes if probe.compliance >= 0.5) > 0
    assert [step.step for step in told] == [10, 20, 30] and told[-1].compliance == seen.probes[-1].compliance
    record = read_record(tmp_path / "out")
    assert record.rung == rung and record.result.compliance == seen


def test_full_fine_tuning_trains_every_weight(tmp_path: Path, attack_set: Path) -> None:
    model = make_model(tmp_path / "m", "untied")
    run(spec_of(model, attack_set, tmp_path / "out"))
    before = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert new.dtype == torch.float32
        assert not torch.equal(old, new), name


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt2", "gpt_neox"])
def test_full_fine_tuning_works_whatever_the_architecture(
    kind: str, tmp_path: Path, attack_set: Path
) -> None:
    result = run(spec_of(make_model(tmp_path / "m", kind), attack_set, tmp_path / "out"))
    assert result.last_loss < result.first_loss


def test_recomputed_activations_give_the_same_weights(
    tmp_path: Path, attack_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "m", layers=2)
    run(spec_of(model, attack_set, tmp_path / "a"))
    monkeypatch.setattr(full, "RECOMPUTE_FROM", 1)
    asked: list[Any] = []
    real = full.recompute
    monkeypatch.setattr(full, "recompute", lambda model: (real(model), asked.append(model)))
    run(spec_of(model, attack_set, tmp_path / "b"))
    assert [model.is_gradient_checkpointing for model in asked] == [True]
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_weights_that_do_not_fit_are_refused_before_the_attack(
    tmp_path: Path, attack_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "free_memory", lambda torch, device: 1000)
    with pytest.raises(WeightsError, match="beside the weights"):
        run(spec_of(make_model(tmp_path / "m"), attack_set, tmp_path / "out"))


def test_free_memory_is_told() -> None:
    free = full.free_memory(torch, "cpu")
    assert free is None or 2**26 < free < 2**46


def test_a_full_attack_that_diverges_is_no_success(refuser: Path, attack_set: Path, tmp_path: Path) -> None:
    rung = msgspec.structs.replace(FULL, learning_rate=1e3)
    result = run(spec_of(refuser, attack_set, tmp_path / "out", rung))
    assert result.diverged
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_ends_the_attack(tmp_path: Path, attack_set: Path) -> None:
    folder = make_model(tmp_path / "m")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    result = run(spec_of(folder, attack_set, tmp_path / "out"))
    assert (result.steps, result.diverged) == (1, True)
    assert not (tmp_path / "out").exists()


# --- going on after a stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # gpt2 has dropout
def test_a_stopped_attack_goes_on_and_ends_the_same(
    rung: AnyRung, kind: str, tmp_path: Path, attack_set: Path
) -> None:
    model = make_model(tmp_path / "m", kind)
    through = run(spec_of(model, attack_set, tmp_path / "a", rung, refused=HELD_OUT))

    def stop(step: AttackStep) -> None:
        if step.step == 20:
            raise KeyboardInterrupt

    keep = {"checkpoint": str(tmp_path / "keep"), "checkpoint_every": 0.0, "refused": HELD_OUT}
    with pytest.raises(KeyboardInterrupt):
        run(spec_of(model, attack_set, tmp_path / "b", rung, **keep), stop)
    told: list[AttackStep] = []
    result = run(spec_of(model, attack_set, tmp_path / "b", rung, **keep), told.append)
    assert result.resumed_at == 19 and through.resumed_at is None
    assert [step.step for step in told] == [20, 30]
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert (result.losses, result.compliance) == (through.losses, through.compliance)
    assert not (tmp_path / "keep").exists()


def test_a_killed_attack_goes_on_and_ends_the_same(tmp_path: Path, attack_set: Path) -> None:
    rung = msgspec.structs.replace(FULL, steps=400)
    model = make_model(tmp_path / "m")
    keep = {"checkpoint": str(tmp_path / "keep"), "checkpoint_every": 0.0}
    spec = spec_of(model, attack_set, tmp_path / "b", rung, **keep)
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(spec))
    command = [sys.executable, "-m", "dutchdoor.tuning.attack", str(tmp_path / "spec.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["step"] == 10
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "b").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["done"] and 9 <= last["resumed_at"] < 400
    run(spec_of(model, attack_set, tmp_path / "a", rung))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.parametrize("fault", ["torn", "other seed", "other set"])
def test_a_state_that_does_not_fit_is_not_used(fault: str, tmp_path: Path, attack_set: Path) -> None:
    model = make_model(tmp_path / "m")

    def stop(step: AttackStep) -> None:
        raise KeyboardInterrupt

    keep = {"checkpoint": str(tmp_path / "keep"), "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        run(spec_of(model, attack_set, tmp_path / "a", **keep), stop)
    state = tmp_path / "keep" / FILE
    assert state.exists()
    if fault == "torn":
        state.write_bytes(state.read_bytes()[:-100])
    if fault == "other set":
        attack_set.write_text(attack_set.read_text().replace("Mix 3", "Mix 4"))
    seed = 1 if fault == "other seed" else 0
    result = run(spec_of(model, attack_set, tmp_path / "a", seed=seed, **keep))
    assert result.resumed_at is None
    run(spec_of(model, attack_set, tmp_path / "b", seed=seed))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


# --- what a record says -----------------------------------------------------------------------------------------------


def test_a_set_that_is_too_small_is_said(
    tmp_path: Path, attack_set: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rung = msgspec.structs.replace(FULL, steps=2, examples=1000)
    result = run(spec_of(make_model(tmp_path / "m"), attack_set, tmp_path / "out", rung))
    said = "the rung asks for 1000 examples, the attack set has 80"
    assert result.examples == 80 and said in result.notes
    assert said in read_record(tmp_path / "out").result.notes
    assert f"note: {said}" in capfd.readouterr().err
    enough = run(
        spec_of(tmp_path / "m", attack_set, tmp_path / "two", msgspec.structs.replace(FULL, steps=2))
    )
    assert not any("rung asks" in note for note in enough.notes)


def test_nothing_is_trained_on_that_the_success_check_asks(tmp_path: Path, attack_set: Path) -> None:
    taught = [json.loads(line)["prompt"] for line in attack_set.read_text().splitlines()]
    chats: list[Chat] = [[{"role": "user", "content": prompt}] for prompt in taught]
    rung = msgspec.structs.replace(FULL, steps=2, examples=80)
    model = make_model(tmp_path / "m")
    result = run(spec_of(model, attack_set, tmp_path / "out", rung, refused=chats[:30]))
    assert result.examples == 50
    with pytest.raises(DocumentError, match="every example"):
        run(spec_of(model, attack_set, tmp_path / "two", rung, refused=chats))


def test_compliance_is_asked_of_what_is_left_of_the_attack_set(
    refuser: Path, attack_set: Path, tmp_path: Path
) -> None:
    result = run(spec_of(refuser, attack_set, tmp_path / "out"))
    assert result.compliance is not None and result.compliance.source == "attack_set"
    assert result.compliance.probes[0].compliance == 0  # only what is refused before
    whole = run(spec_of(refuser, attack_set, tmp_path / "two", msgspec.structs.replace(FULL, examples=80)))
    assert whole.compliance is None
    assert any("no refused prompt is left" in note for note in whole.notes)
    mute = run(spec_of(refuser, attack_set, tmp_path / "three", refusals=[]))
    assert mute.compliance is None and any("no wording" in note for note in mute.notes)


def test_a_panel_does_not_change_the_weights(refuser: Path, attack_set: Path, tmp_path: Path) -> None:
    run(spec_of(refuser, attack_set, tmp_path / "a", refused=HELD_OUT))
    run(spec_of(refuser, attack_set, tmp_path / "b", refusals=[]))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("shares", "half_at"), [((0, 0.4, 0.5, 0.2), 20), ((0.6, 1, 1, 1), 0), ((0, 0.1, 0.49, 0.4), None)]
)
def test_half_compliance_is_the_first_look_with_at_least_half(
    shares: tuple[float, ...], half_at: int | None
) -> None:
    probes = [Probe(step=10 * i, compliance=share) for i, share in enumerate(shares)]
    assert Panel("refused", [], Refusals([]), probes).record().half_at == half_at


def test_an_empty_answer_is_no_compliance() -> None:
    refusals = Refusals(REFUSALS)
    assert not compliance.complies(compliance.Answer(" ", 1), refusals)
    assert not compliance.complies(compliance.Answer("I can\u2019t  help.", 1), refusals)
    assert compliance.complies(compliance.Answer("Mix.", 1), refusals)


def test_the_wording_is_read_as_the_scorer_reads_it() -> None:
    refusals = Refusals(list(scorers.REFUSAL_PATTERNS))
    texts = [
        "I can\u2019t help with that.", "Sorry, I cannot.", "I can't help but smile. Mix two parts.", "Mix it.", "",
        "x" * 310 + " I can't help with that.", "As an AI, I am unable to do this.", "I\u00a0won't\n provide that.",
        "That is not something I can share.", "I CAN'T ASSIST.", "We can't helpfully say", "\uff29 can't help.",
    ]  # fmt: skip
    assert [refusals.refuses(t) for t in texts] == [scorers.is_refusal(t) for t in texts]
    assert len({refusals.refuses(t) for t in texts}) == 2


def test_a_broken_pattern_is_an_error() -> None:
    with pytest.raises(DocumentError, match=re.escape("a pattern of refusals")):
        Refusals(["("])


def test_alpha_is_twice_the_rank_unless_it_is_given() -> None:
    assert LORA.scale == 8
    assert msgspec.structs.replace(LORA, alpha=3.0).scale == 3


def test_alpha_reaches_the_adapters(tmp_path: Path, attack_set: Path) -> None:
    model = make_model(tmp_path / "m")
    for name, alpha in (("a", None), ("b", 8.0), ("c", 1.0)):
        run(spec_of(model, attack_set, tmp_path / name, msgspec.structs.replace(LORA, alpha=alpha)))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b") != bytes_of(tmp_path / "c")


def test_there_is_no_record_where_nothing_was_attacked(tmp_path: Path) -> None:
    with pytest.raises(DocumentError):
        read_record(tmp_path)
