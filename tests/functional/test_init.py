"""`dutchdoor init` through the command line: what it writes loads, decides, and says what to fill in."""

import json
import re
from pathlib import Path

import pytest

from dutchdoor.family.load import load_family
from dutchdoor.policy.decide import load_policies
from dutchdoor.policy.rules import load_policy
from tests.fakes.cli import run
from tests.fakes.weights import LLAMA, write_folder, write_gguf


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Two folders of different sizes, and a quantised file of the smaller one."""
    small = write_folder(tmp_path / "Gable-S")
    (small / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    large = write_folder(
        tmp_path / "gable-l", LLAMA | {"head.weight": (64, 4)}, template=False, max_position_embeddings=512
    )
    (large / "LICENSE").write_text("Our own terms: ask first.\n")
    write_gguf(tmp_path / "gable-s-Q8_0.gguf")
    return tmp_path


def test_what_is_written_loads_and_decides_inconclusive(weights: Path) -> None:
    done = run("init", "Gable-S", "gable-l", "gable-s-Q8_0.gguf", "--out", "release", cwd=weights)
    assert done.returncode == 0, done.stderr
    loaded = load_family(weights / "release" / "family.yaml")
    assert loaded.family.family == "gable"
    assert [each.name for each in loaded.family.members] == ["gable-s", "gable-s-2", "gable-l"]
    assert [each.role for each in loaded.family.members] == [None, None, "flagship"]
    assert [each.license for each in loaded.family.members] == [
        "Apache-2.0",
        "Apache-2.0",
        "LicenseRef-unknown",
    ]
    (policy,) = load_policies(loaded)
    assert {each.gates for each in policy.policy.rules} == {"download", "api"}

    decided = run("decide", "release/family.yaml", "--format", "json", cwd=weights)
    assert decided.returncode == 3, decided.stderr
    decision = json.loads(decided.stdout)
    assert {each["tier"] for each in decision["members"].values()} == {"held"}
    assert {c["closed_by"] for m in decision["members"].values() for c in m["channels"].values()} == {
        "inconclusive"
    }


def test_it_says_what_it_found_and_what_to_fill_in(weights: Path) -> None:
    done = run("init", "Gable-S", "gable-l", cwd=weights)
    assert done.returncode == 0 and done.stderr == ""
    assert (
        "Gable-S: LlamaForCausalLM, 36 parameters, BF16, 128 tokens of context, Apache-2.0, chat template"
        in done.stdout
    )
    assert (
        "gable-l: LlamaForCausalLM, 292 parameters, BF16, 512 tokens of context, licence unknown, no chat template"
        in (done.stdout)
    )
    for each in (
        "publisher.name",
        "the licence of gable-l",
        "gable-l has no chat template",
        "policy.yaml: suites",
    ):
        assert each in done.stdout
    assert "the licence of gable-s" not in done.stdout
    assert "then: dutchdoor decide family.yaml" in done.stdout


def test_a_quantised_file_of_the_same_name_and_size_becomes_a_variant_of_its_original(weights: Path) -> None:
    write_folder(weights / "m", {"model.embed_tokens.weight": (32, 2), "model.norm.weight": (32,)})
    write_gguf(weights / "m.q8_0.gguf")
    assert run("init", "m.q8_0.gguf", "m", cwd=weights).returncode == 0
    (member,) = load_family(weights / "family.yaml").family.members
    assert member.name == "m" and member.role is None
    assert [(each.id, each.weights, each.of) for each in member.variants] == [
        ("bf16", "./m", None),
        ("q8_0", "./m.q8_0.gguf", "bf16"),
    ]


def test_a_quantised_file_alone_says_what_that_means(weights: Path) -> None:
    done = run("init", "gable-s-Q8_0.gguf", cwd=weights)
    assert done.returncode == 0
    assert "is quantised and its original was not given" in done.stdout


def test_nothing_is_overwritten_without_force(weights: Path) -> None:
    (weights / "policy.yaml").write_text("mine\n")
    done = run("init", "Gable-S", cwd=weights)
    assert done.returncode == 2
    assert "policy.yaml would be overwritten" in done.stderr and "hint: --force" in done.stderr
    assert (weights / "policy.yaml").read_text() == "mine\n"
    assert not (weights / "family.yaml").exists()
    assert run("init", "Gable-S", "--force", cwd=weights).returncode == 0
    assert (weights / "policy.yaml").read_text() != "mine\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04\x95pickle"), "is broken"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "may be a pickle"),
        (lambda f: (f / "model.safetensors").unlink(), "there are no safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "is no JSON"),
    ],
)
def test_weights_that_cannot_be_read_write_nothing(weights: Path, make: object, message: str) -> None:
    make(weights / "Gable-S")  # type: ignore[operator]
    done = run("init", "gable-l", "Gable-S", cwd=weights)
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (weights / "family.yaml").exists()


def test_a_path_given_twice_is_refused(weights: Path) -> None:
    done = run("init", "Gable-S", "./Gable-S/", cwd=weights)
    assert done.returncode == 2 and "is given twice" in done.stderr


def test_a_folder_that_cannot_be_written_is_an_error_in_words(weights: Path) -> None:
    (weights / "file").write_text("")
    done = run("init", "Gable-S", "--out", "file/inside", cwd=weights)
    assert done.returncode == 1
    assert done.stderr.startswith("error: can't write") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("1e5", "1e5"), ("true", "true"), ("a: b", "a-b"), ("2027-01-01", "2027-01-01"), ("ünï", "n")],
)
def test_any_folders_name_becomes_a_name_that_loads(tmp_path: Path, name: str, quoted: str) -> None:
    write_folder(tmp_path / name)
    assert run("init", name, cwd=tmp_path).returncode == 0
    loaded = load_family(tmp_path / "family.yaml")
    assert loaded.family.members[0].name == quoted
    assert loaded.facts(quoted, "bf16") is not None


def test_every_rule_that_the_policy_teaches_is_a_rule_that_loads(weights: Path) -> None:
    """Uncommented, and with the files it names, the whole policy is valid: its comments teach nothing wrong."""
    assert run("init", "Gable-S", cwd=weights).returncode == 0
    path = weights / "policy.yaml"
    text = path.read_text()
    lines = []
    for line in text.splitlines():
        bare = re.match(r"^(\s*)# (\s*(?:- )?(?:[a-z_.]+: ?|\{|suites:|threats:).*)$", line)
        lines.append(bare[1] + bare[2] if bare and "`" not in line and not line.endswith(":  #") else line)
    path.write_text("\n".join(lines) + "\n")
    (weights / "suites").mkdir()
    for name in ("hazard", "reasoning", "lookalikes", "attack", "refused"):
        (weights / "suites" / f"{name}.jsonl").write_text("{}\n")
    policy = load_policy(path).policy
    assert [each.id for each in policy.rules] == [
        "size-ceiling", "hazard", "hazard-after-tampering", "hazard-behind-guard", "over-refusal", "crown-jewels",
        "not-crippled", "red-team", "data-stays",
    ]  # fmt: skip
    assert policy.threats.tampered is not None and len(policy.suites) == 3
    assert "#" in text


def test_what_a_model_says_of_itself_writes_no_fields_of_the_manifest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Llama\n    intent: {download: true}\n    price: {input: 0, output: 0}"]
    (folder / "config.json").write_text(json.dumps(config))
    assert run("init", "m", cwd=tmp_path).returncode == 0
    (member,) = load_family(tmp_path / "family.yaml").family.members
    assert member.price is None
