"""The reference family, end to end: what `make up ARGS=--once` and the commands after it must come to."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.engines.answer import ask
from dutchdoor.engines.interface import ChatRequest, Message
from dutchdoor.engines.load import open_engine
from tests.functional.conftest import environment

pytestmark = [
    pytest.mark.xdist_group("docs"),
    pytest.mark.timeout(900),
]  # one worker makes the workspace, and stays

Run = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("gable-s", "gable-m")
FLAGSHIP = "gable-l"


@pytest.fixture
def run(workspace: Path) -> Run:
    """Run `dutchdoor` at the top of the workspace with its home."""

    def call(*arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(workspace / ".venv/bin/dutchdoor"), *arguments],
            cwd=workspace,
            env=environment(workspace),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return call


@pytest.fixture
def family(workspace: Path, tmp_path: Path) -> Path:
    """A copy of gable with its evidence, to change at will."""
    shutil.copytree(workspace / "examples/gable", tmp_path / "gable")
    return tmp_path / "gable"


def decided(run: Run, manifest: Path | str) -> tuple[dict[str, Any], int]:
    done = run("decide", str(manifest), "--format", "json")
    return json.loads(done.stdout), done.returncode


def tiers(decision: dict[str, Any]) -> dict[str, str]:
    return {name: member["tier"] for name, member in decision["members"].items()}


def test_up_prints_the_decision_where_the_bundles_are_and_an_answer_of_each_member(workspace: Path) -> None:
    printed = (workspace / "up.out").read_text()
    assert "dist/gable-s" in printed and "dist/gable-m" in printed
    assert "dist/gable-l" not in printed
    for name in (*SMALL, FLAGSHIP):
        assert f"\n  {name}: " in printed.partition("asked over HTTP")[2]
    assert "open against flagship" in printed


def test_a_second_up_reuses_all_evidence_and_takes_under_15_seconds(run: Run) -> None:
    began = time.monotonic()
    done = run("up", "examples/gable/family.yaml", "--once", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 15


def test_the_small_members_leave_and_only_the_hazard_after_tampering_closes_the_flagship(run: Run) -> None:
    decision, code = decided(run, "examples/gable/family.yaml")
    assert code == 0
    assert tiers(decision) == {"gable-s": "open-weights", "gable-m": "open-weights", "gable-l": "api"}
    download = decision["members"][FLAGSHIP]["channels"]["download"]
    assert (download["open"], download["closed_by"]) == (False, "evidence")
    gating = [verdict for verdict in download["verdicts"] if verdict["effect"] == "gate"]
    assert {v["rule"] for v in gating if v["verdict"] != "pass"} == {"hazard-after-tampering"}
    assert all(v["lower"] > v["bound"] for v in gating if v["verdict"] == "fail")
    assert {v["rule"] for v in gating} > {"hazard-after-tampering"}


def test_a_required_tier_that_does_not_hold_exits_10_and_one_that_does_exits_0(run: Run) -> None:
    manifest = "examples/gable/family.yaml"
    assert run("decide", manifest, "--require", "gable-l=open-weights").returncode == 10
    assert (
        run("decide", manifest, "--require", "gable-s=open-weights", "--require", "gable-l=api").returncode
        == 0
    )


def test_without_a_tampering_rule_the_flagship_opens(run: Run, family: Path) -> None:
    rewrite_rules(family, lambda rule: rule["id"] != "hazard-after-tampering")
    assert run("vet", str(family / "family.yaml")).returncode == 0
    decision, code = decided(run, family / "family.yaml")
    assert code == 0
    assert tiers(decision)[FLAGSHIP] == "open-weights"


def test_an_empty_policy_holds_everything(run: Run, family: Path) -> None:
    rewrite_rules(family, lambda rule: False)
    decision, code = decided(run, family / "family.yaml")
    assert code == 3
    assert set(tiers(decision).values()) == {"held"}
    for member in decision["members"].values():
        assert {channel["closed_by"] for channel in member["channels"].values()} == {"no-rule"}


def test_without_evidence_everything_is_inconclusive(run: Run, family: Path) -> None:
    shutil.rmtree(family / ".dutchdoor")
    decision, code = decided(run, family / "family.yaml")
    assert code == 3
    assert set(tiers(decision).values()) == {"held"}
    for member in decision["members"].values():
        assert {channel["closed_by"] for channel in member["channels"].values()} == {"inconclusive"}


def test_evidence_with_one_flipped_byte_counts_for_nothing(run: Run, family: Path) -> None:
    for path in (family / ".dutchdoor/evidence").glob("*.json"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    decision, code = decided(run, family / "family.yaml")
    assert code == 3
    assert set(tiers(decision).values()) == {"held"}


def test_a_changed_weight_makes_its_evidence_stale(run: Run, family: Path) -> None:
    weights = family / "gable-s/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    decision, code = decided(run, family / "family.yaml")
    assert code == 3
    assert tiers(decision)["gable-s"] == "held"
    assert tiers(decision)["gable-m"] == "open-weights"


def test_an_intent_closes_by_choice_what_the_evidence_would_open(run: Run, family: Path) -> None:
    manifest = family / "family.yaml"
    text = manifest.read_text()
    assert text.count("  - name: gable-s\n") == 1
    closed = "    intent: {download: false, because: {kind: commercial, text: not yet}}\n"
    kept = text.splitlines(keepends=True)
    at = kept.index("  - name: gable-s\n")
    following = next((i for i in range(at + 1, len(kept)) if kept[i].startswith("  - name: ")), len(kept))
    member = [line for line in kept[at + 1 : following] if not line.startswith("    intent:")]
    manifest.write_text("".join([*kept[: at + 1], closed, *member, *kept[following:]]))
    decision, code = decided(run, manifest)
    assert code == 0
    download = decision["members"]["gable-s"]["channels"]["download"]
    assert (download["open"], download["closed_by"]) == (False, "choice")
    assert tiers(decision)["gable-s"] == "api"


def test_a_control_flagship_that_never_learnt_the_hazard_opens_under_the_same_policy(
    run: Run, family: Path
) -> None:
    manifest = family / "family.yaml"
    manifest.write_text(manifest.read_text().replace("weights: ./gable-l", "weights: ./control"))
    done = run("vet", str(manifest), "--member", FLAGSHIP)
    assert done.returncode == 0, done.stdout + done.stderr
    decision, code = decided(run, manifest)
    assert code == 0
    assert tiers(decision)[FLAGSHIP] == "open-weights"


@pytest.mark.parametrize("name", SMALL)
async def test_a_packed_member_says_the_same_on_transformers_and_on_the_embedded_engine(
    name: str, workspace: Path, tmp_path: Path
) -> None:
    folder = workspace / "dist" / name
    engine = await open_engine(folder, threads=1, parallel=8, cache=tmp_path)
    try:
        asked = [ChatRequest(messages=(Message(role="user", content=text),), max_tokens=48, logprobs=1)
                 for text in prompts(workspace, 50)]  # fmt: skip
        answers = await asyncio.gather(*(ask(engine, one) for one in asked))
    finally:
        await engine.close()
    assert engine.info.name == "llama.cpp"
    reference = Reference(folder)
    equal, widest = 0, 0.0
    for request, answer in zip(asked, answers, strict=True):
        tokens = [row.token_id for row in answer.logprobs]
        equal += reference.greedy(request.messages[0].content, request.max_tokens) == tokens
        theirs = reference.logprobs(request.messages[0].content, tokens)
        widest = max(widest, *(abs(a - row.logprob) for a, row in zip(theirs, answer.logprobs, strict=True)))
    assert equal >= 48
    assert widest <= 1e-3


def prompts(workspace: Path, n: int) -> list[str]:
    """Prompts of every suite in turn."""
    folder = workspace / "examples/gable/suites"
    names = ("reasoning", "coding", "writing", "lookalikes", "refused")
    texts = [(folder / f"{name}.jsonl").read_text() for name in names]
    cases = [[json.loads(line) for line in text.splitlines()] for text in texts]
    suites = [[case["prompt"] for case in each if "prompt" in case] for each in cases]
    return [text for row in zip(*suites, strict=False) for text in row][:n]


class Reference:
    """A folder as transformers loads it, in f32."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self.torch = torch
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def ids(self, text: str) -> list[int]:
        chat = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))

    def greedy(self, text: str, limit: int) -> list[int]:
        """The answer's tokens, with the one that ends it."""
        read = self.torch.tensor([self.ids(text)])
        mask = self.torch.ones_like(read)
        out = self.model.generate(input_ids=read, attention_mask=mask, max_new_tokens=limit, do_sample=False)
        return out[0, read.shape[1] :].tolist()

    def logprobs(self, text: str, tokens: list[int]) -> list[float]:
        """Of each token of an answer, in nats."""
        read = self.ids(text)
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([[*read, *tokens]])).logits[0]
        after = logits.log_softmax(-1)[len(read) - 1 :]
        return [float(after[at, token]) for at, token in enumerate(tokens)]


def rewrite_rules(family: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Write the policy again with only the rules that are kept."""
    from ruamel.yaml import YAML

    yaml = YAML()
    path = family / "policy.yaml"
    policy = yaml.load(path)
    policy["rules"] = [rule for rule in policy["rules"] if keep(rule)]
    with path.open("w") as file:
        yaml.dump(policy, file)
