"""A manifest that is well formed and can't be meant is refused, with line, field and remedy."""

from pathlib import Path

import pytest

from dutchdoor.core import DocumentError, WeightsError
from dutchdoor.family.load import load_family, served_variant
from tests.fakes.weights import safetensors_bytes, safetensors_header, write_folder, write_gguf

GOOD = """\
kind: dutchdoor/family@1
family: gable
version: 1.0.0
publisher: {name: Example Lab, contact: release@example.org}
references:
  public: {weights: ./baseline}
  previous: {bundle: ./v0.9/gable-s}
components:
  - {kind: datasets, path: data/, license: CC-BY-4.0, intent: closed, because: {kind: legal, text: licensed}}
members:
  - name: gable-s
    license: Apache-2.0
    variants: [{id: bf16, weights: ./small}, {id: q8, weights: s.gguf, of: bf16}, {id: tuned, adapter: ./ad, on: bf16}]
    price: {input: 0.02, output: 0.06}
  - name: gable-l
    role: flagship
    license: LicenseRef-gable-api
    variants: [{id: bf16, weights: ./large}]
    serve: {variant: bf16, system_prompt: serve/system.txt, guard: serve/guard.yaml}
    price: {input: 0.40, output: 1.20}
  - name: gable-x
    variants: [{id: there}]
    serve: {target: {url: https://models.example/v1, model: x, key_env: KEY}}
policies: [policy.yaml]
promises: {notice_days: 90, price_cap: {gable-l: {input: 0.60, output: 1.80}}, successor_days: 180}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    for name in ("baseline", "small", "large"):
        write_folder(tmp_path / name)
    write_gguf(tmp_path / "s.gguf")
    adapter = tmp_path / "ad"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    header = safetensors_header({"base.lora_A.weight": (2, 4)})
    (adapter / "adapter_model.safetensors").write_bytes(safetensors_bytes(header))
    (tmp_path / "data").mkdir()
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "system.txt").write_text("Be kind.")
    (tmp_path / "serve" / "guard.yaml").write_text("kind: dutchdoor/guard@1\n")
    (tmp_path / "policy.yaml").write_text("kind: dutchdoor/policy@1\nid: p\n")
    path = tmp_path / "family.yaml"
    path.write_text(GOOD)
    return path


def test_the_manifest_of_the_design_loads(manifest: Path) -> None:
    loaded = load_family(manifest)
    assert loaded.flagship is not None and loaded.flagship.name == "gable-l"
    assert served_variant(loaded.member("gable-s")) == "bf16"
    assert loaded.weights_path("gable-s", "q8") == manifest.parent / "s.gguf"
    assert loaded.weights_path("public", "weights") == manifest.parent / "baseline"
    assert loaded.weights_path("gable-x", "there") is None and loaded.facts("gable-x", "there") is None
    assert loaded.reference_path("previous") is None
    write_folder(manifest.parent / "v0.9" / "gable-s")
    assert loaded.reference_path("previous") == manifest.parent / "v0.9" / "gable-s"


def test_an_adapters_variant_counts_its_base_and_itself(manifest: Path) -> None:
    loaded = load_family(manifest)
    facts = loaded.facts("gable-s", "tuned")
    assert facts is not None and facts.adapter and facts.parameters == 36 + 8


def test_broken_weights_are_found_when_they_are_looked_at_each_time(manifest: Path) -> None:
    (manifest.parent / "small" / "config.json").unlink()
    loaded = load_family(manifest)
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"no config\.json"):
            loaded.facts("gable-s", "bf16")


def test_unknown_names_are_answered_with_those_there_are(manifest: Path) -> None:
    loaded = load_family(manifest)
    with pytest.raises(DocumentError) as caught:
        loaded.member("gable-m")
    assert caught.value.hint == "members: gable-s, gable-l, gable-x"
    with pytest.raises(DocumentError) as caught:
        loaded.variant("gable-s", "f32")
    assert caught.value.hint == "variants: bf16, q8, tuned"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("name: gable-l", "name: gable-s", ":15: members[1].name: gable-s is also the name of members[0]"),
        ("name: gable-l", "name: public", ":15: members[1].name: public is also the name of a reference"),
        ("name: gable-s", "name: gable-s\n    role: flagship", "a family has at most one flagship"),
        ("  public: {", "  flagship: {", ":6: references.flagship: flagship stands for the member"),
        ("{id: q8,", "{id: bf16,", "variants[1].id: bf16 is also the id of another variant of gable-s"),
        ("of: bf16", "of: f32", ":13: members[0].variants[1].of: gable-s has no variant 'f32'"),
        ("on: bf16", "on: f32", ":13: members[0].variants[2].on: gable-s has no variant 'f32'"),
        ("of: bf16", "of: q8", "q8 is derived from itself"),
        (", on: bf16}", "}", "an adapter needs `on`"),
        ("{id: tuned, adapter: ./ad,", "{id: tuned,", "an adapter needs `on`"),
        ("adapter: ./ad", "adapter: ./ad, weights: ./small", "weights or an adapter, not both"),
        (
            "weights: ./large",
            "weights: ./lost",
            ":18: members[1].variants[0].weights: there are no weights at",
        ),
        ("weights: ./large", "weights: hf://org/name", "is not hf://ORG/NAME@REVISION"),
        (
            "    serve: {target: {url: https://models.example/v1, model: x, key_env: KEY}}\n",
            "",
            "the variant has no weights",
        ),
        ("https://models", "ftp://models", "serve.target.url: expected http:// or https://"),
        ("variant: bf16,", "variant: f32,", ":19: members[1].serve.variant: gable-l has no variant 'f32'"),
        ("serve/system.txt", "serve/lost.txt", ":19: members[1].serve.system_prompt: there is no file"),
        ("guard: serve/guard.yaml", "guard: serve", "members[1].serve.guard: there is no file"),
        ("path: data/", "path: lost/", ":9: components[0].path: there is nothing at"),
        ("path: data/", "path: ../", ":9: components[0].path: a component lies beside the manifest or below"),
        ("path: data/", "path: /etc", "a component lies beside the manifest or below"),
        (
            "license: Apache-2.0",
            "license: Apache 2.0",
            ":12: members[0].license: 'Apache 2.0' is no licence expression",
        ),
        ("license: Apache-2.0", "license: apache-2.0", "is not how SPDX spells it"),
        ("license: CC-BY-4.0", "license: MIT OR", "components[0].license: 'MIT OR' is no licence expression"),
        ("input: 0.40", "input: 0.70", ":20: members[1].price.input: 0.7 is above the promised cap of 0.6"),
        ("input: 0.02", "input: -0.02", "members[0].price.input: expected USD per million tokens ≥ 0"),
        ("price_cap: {gable-l", "price_cap: {gable-m", "promises.price_cap.gable-m: no member has this name"),
        ("notice_days: 90", "notice_days: -1", "promises.notice_days: expected days ≥ 0"),
        (
            "public: {weights: ./baseline}",
            "public: {}",
            ":6: references.public: a reference has weights or a bundle",
        ),
        ("weights: ./baseline", "weights: ./lost", ":6: references.public.weights: there are no weights at"),
        ("[policy.yaml]", "[lost.yaml]", ":24: policies[0]: there is no file"),
    ],
)
def test_what_cannot_be_meant_is_refused(manifest: Path, before: str, after: str, message: str) -> None:
    assert before in GOOD
    manifest.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(DocumentError) as caught:
        load_family(manifest)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{manifest}:")


def test_a_link_out_of_the_folder_is_no_component(
    manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (manifest.parent / "data").rmdir()
    (manifest.parent / "data").symlink_to(elsewhere)
    with pytest.raises(DocumentError, match="lies beside the manifest"):
        load_family(manifest)


def test_a_system_prompt_must_be_text(manifest: Path) -> None:
    (manifest.parent / "serve" / "system.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DocumentError, match="is not UTF-8 text"):
        load_family(manifest)


def test_weights_on_a_hub_are_named_and_not_here(manifest: Path) -> None:
    manifest.write_text(GOOD.replace("weights: ./large", "weights: hf://org/name@0123abc"))
    loaded = load_family(manifest)
    assert loaded.weights_path("gable-l", "bf16") is None and loaded.facts("gable-l", "bf16") is None


@pytest.mark.parametrize("stated", ["x" * 300, '"a\\0b"', "small/model.safetensors/deeper"])
def test_what_can_be_no_path_is_refused_with_its_field(manifest: Path, stated: str) -> None:
    manifest.write_text(GOOD.replace("path: data/", f"path: {stated}"))
    with pytest.raises(
        DocumentError, match=r"family.yaml:9: components\[0\].path: .*(can't be read|nothing at)"
    ):
        load_family(manifest)


def test_a_name_may_not_end_in_a_line_break(manifest: Path) -> None:
    manifest.write_text(GOOD.replace("  - name: gable-x\n", '  - name: "gable-x\\n"\n'))
    with pytest.raises(DocumentError, match="name"):
        load_family(manifest)
