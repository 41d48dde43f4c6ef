"""`pack`, `verify` and `signing-keys` as a person calls them, on families that are not ours."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.models import make_gguf, make_model, smollm2

POLICY = """\
kind: dutchdoor/policy@1
id: base
effective: 2026-11-01
rules:
  - {id: size-ceiling, gates: download, measure: parameters, at_most: 1e6, because: above this we sell access}
"""
MANIFEST = """\
kind: dutchdoor/family@1
family: pair
version: 1.0.0
publisher: {name: Example Lab}
members:
  - name: small
    license: Apache-2.0
    variants: [{id: f32, weights: ./small}, {id: gguf, weights: ./small.gguf, of: f32}]
    price: {input: 0.02, output: 0.06}
  - name: large
    license: LicenseRef-large
    variants: [{id: f32, weights: ./large}]
    intent: {download: false, because: {kind: commercial, text: we sell access}}
policies: [policy.yaml]
promises: {notice_days: 90}
"""


@dataclass
class Desk:
    """A folder to work in, and the command line in it."""

    folder: Path

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dutchdoor.cli.main", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def ok(self, *arguments: object, **environment: str) -> str:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "small", "llama", seed=1)
    make_model(folder / "large", "llama", seed=2)
    make_gguf(folder / "small", folder / "small.gguf")
    return folder


@pytest.fixture
def desk(models: Path, tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    shutil.copytree(models, folder)
    (folder / "family.yaml").write_text(MANIFEST)
    (folder / "policy.yaml").write_text(POLICY)
    return Desk(folder)


def test_pack_then_verify(desk: Desk) -> None:
    packed = desk.run("pack", "family.yaml")
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout.split() == ["dist/small"]
    assert "large stays: closed by choice, commercial: we sell access" in packed.stderr
    assert not (desk.folder / "dist" / "large").exists()
    shown = desk.ok("verify", "dist/small")
    assert shown.startswith("dist/small: valid\n")
    for words in (
        "small, pair 1.0.0, by Example Lab",
        "size-ceiling",
        "large, weights (f32): closed by choice",
    ):
        assert words in shown
    report = json.loads(desk.ok("verify", "dist/small", "--format", "json"))
    assert report["verdict"] == "valid"
    assert report["bundles"][0]["tier"] == "open-weights"
    assert report["bundles"][0]["closed"][0]["member"] == "large"


def test_a_bundle_loads_with_transformers_and_its_gguf_with_the_engine(desk: Desk) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    desk.ok("pack", "family.yaml")
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(desk.folder / name) for name in ("dist/small", "small")
    )
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)
    assert AutoTokenizer.from_pretrained(desk.folder / "dist/small").vocab_size
    packed = desk.folder / "dist/small/variants/gguf/small.gguf"
    assert packed.read_bytes() == (desk.folder / "small.gguf").read_bytes()


def test_each_way_of_tampering_is_exit_10_and_names_the_file(desk: Desk) -> None:
    desk.ok("pack", "family.yaml")
    bundle = desk.folder / "dist" / "small"
    dossier = bundle / "dutchdoor" / "dossier.json"
    good = dossier.read_bytes()

    def found(name: str) -> None:
        checked = desk.run("verify", "dist/small")
        assert checked.returncode == 10, checked.stdout + checked.stderr
        assert name in checked.stdout
        assert "Traceback" not in checked.stderr

    dossier.write_text(json.dumps(json.loads(good), indent=2))
    found("dutchdoor/dossier.json")
    dossier.write_bytes(good)
    (bundle / "extra.py").write_text("x")
    found("extra.py")
    (bundle / "extra.py").unlink()
    weights = bundle / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found("model.safetensors")
    data[-1] ^= 1
    weights.write_bytes(data)
    (bundle / "LICENSE").unlink()
    found("LICENSE")


def test_an_unknown_signer_is_exit_3_until_trusted(desk: Desk, tmp_path: Path) -> None:
    desk.ok("pack", "family.yaml")
    desk.ok("signing-keys", "export", "--out", "lab.pub")
    other = {"DUTCHDOOR_CONFIG": str(tmp_path / "reader")}
    checked = desk.run("verify", "dist/small", **other)
    assert checked.returncode == 3
    assert "valid, but signed by an unknown key sha256:" in checked.stdout
    assert "signing-keys trust dist/small/dutchdoor/signer.pub" in checked.stdout
    desk.ok("verify", "dist/small", "--trust", "lab.pub", **other)
    assert desk.run("verify", "dist/small", **other).returncode == 3
    desk.ok("signing-keys", "trust", "lab.pub", **other)
    desk.ok("verify", "dist/small", **other)
    desk.ok("signing-keys", "untrust", "lab.pub", **other)
    (desk.folder / "dist" / "small" / "config.json").write_text("{}")
    assert desk.run("verify", "dist/small", **other).returncode == 10  # broken weighs more than unknown


def test_bad_input_is_said_without_a_traceback(desk: Desk) -> None:
    (desk.folder / "empty.pub").write_text("")
    (desk.folder / "broken").mkdir()
    (desk.folder / "broken" / "family.yaml").write_text("kind: [")
    for arguments, words in {
        ("verify", "nowhere"): "does not exist",
        ("verify", "small"): "is no bundle",
        ("verify", "small.gguf"): "is no bundle",
        ("verify", "small", "--trust", "empty.pub"): "empty.pub is empty",
        ("verify", "small", "--trust", "nowhere.pub"): "nowhere.pub",
        ("pack", "nowhere.yaml"): "nowhere.yaml",
        ("pack", "broken/family.yaml"): "family.yaml",
    }.items():
        done = desk.run(*arguments)
        assert done.returncode == 1, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_truncated_weights_and_a_pickle_are_refused(desk: Desk) -> None:
    weights = desk.folder / "small" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    done = desk.run("pack", "family.yaml")
    assert done.returncode == 1
    assert "truncated" in done.stderr
    weights.write_bytes(whole)
    weights.rename(desk.folder / "small" / "pytorch_model.bin")
    done = desk.run("pack", "family.yaml")
    assert done.returncode == 1
    assert "pickle" in done.stderr
    assert not (desk.folder / "dist").exists()


def test_when_nothing_may_leave_the_exit_code_says_why(desk: Desk) -> None:
    policy = desk.folder / "policy.yaml"
    policy.write_text(POLICY.replace("1e6", "10"))
    done = desk.run("pack", "family.yaml")
    assert done.returncode == 10
    assert "small is closed by evidence" in done.stderr
    policy.write_text(POLICY[: POLICY.index("rules:")] + "rules: []\n")
    done = desk.run("pack", "family.yaml")
    assert done.returncode == 3
    assert "small is closed by no-rule" in done.stderr
    assert not (desk.folder / "dist").exists()


@pytest.mark.parametrize("command", [("pack",), ("up", "--once", "--port", "0")])
def test_a_bundle_of_an_earlier_pack_goes_when_nothing_may_leave_any_more(
    desk: Desk, command: tuple[str, ...]
) -> None:
    desk.ok("pack", "family.yaml")
    (desk.folder / "policy.yaml").write_text(POLICY.replace("1e6", "10"))
    done = desk.run(*command, "family.yaml")
    assert done.returncode == (10 if command == ("pack",) else 3), done.stderr
    assert not (desk.folder / "dist" / "small").exists()
    if command == ("pack",):
        assert "note: removed dist/small: packed earlier, closed now" in done.stderr


def test_one_members_bundle_can_be_asked_for(desk: Desk) -> None:
    assert desk.ok("pack", "family.yaml", "-M", "small", "--out", "elsewhere").split() == ["elsewhere/small"]
    assert desk.run("pack", "family.yaml", "-M", "large").returncode == 10
    assert desk.run("pack", "family.yaml", "-M", "nobody").returncode == 2


def test_smollm2_packs_and_verifies_under_a_policy_without_tampering(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    weights = smollm2(tmp_path)
    text = MANIFEST[: MANIFEST.index("  - name: small")] + (
        f"  - name: smollm2\n    license: Apache-2.0\n    variants: [{{id: q4, weights: {weights.name}}}]\n"
        "policies: [policy.yaml]\n"
    )
    (tmp_path / "family.yaml").write_text(text)
    (tmp_path / "policy.yaml").write_text(POLICY.replace("1e6", "2e8"))
    desk.ok("pack", "family.yaml")
    assert "dist/smollm2: valid" in desk.ok("verify", "dist/smollm2")
    assert (tmp_path / "dist" / "smollm2" / weights.name).stat().st_size == weights.stat().st_size
