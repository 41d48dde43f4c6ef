"""The leak check finds planted content, and leaves innocents alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from dutchdoor.bundle.leaks import BLIND_SPOTS
from dutchdoor.core import BundleError

from .conftest import SECRET_LINE, SYSTEM_PROMPT, House, safetensors, weights


async def leak(house: House, *words: str) -> None:
    with pytest.raises(BundleError, match="closed content") as caught:
        await house.pack(evidence=[])
    for word in words:
        assert word in caught.value.message
    assert not any(path.name == "tiny-s" for path in house.out.glob("*"))


async def test_an_innocent_family_is_no_leak_though_tokenizers_and_norms_are_equal(house: House) -> None:
    small, large = (house.folder / name for name in ("tiny-s", "tiny-l"))
    assert (small / "tokenizer.json").read_bytes() == (large / "tokenizer.json").read_bytes()
    assert await house.pack()


async def test_a_closed_members_weights_under_another_name_are_found(house: House) -> None:
    content = (house.folder / "tiny-l" / "model.safetensors").read_bytes()
    (house.folder / "train" / "init.safetensors").write_bytes(content)
    await leak(
        house, "components/training-code/train/init.safetensors", "tiny-l's weights (f32)", "the same file"
    )


async def test_one_closed_tensor_among_others_is_found(house: House) -> None:
    mixed = weights(1) | {"model.embed_tokens.weight": weights(2)["model.embed_tokens.weight"]}
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(safetensors(mixed))
    await leak(house, "model.safetensors", "tiny-l's weights (f32), tensor model.embed_tokens.weight")


async def test_a_renamed_tensor_is_found(house: House) -> None:
    mixed = weights(1) | {"extra": weights(2)["model.layers.0.mlp.up_proj.weight"]}
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(safetensors(mixed))
    await leak(house, "as tensor extra")


async def test_constant_tensors_are_nobodys_secret(house: House) -> None:
    both = {"zeros": np.zeros((64, 64)), "ones": np.ones((64, 64))}
    for name, seed in (("tiny-s", 1), ("tiny-l", 2)):
        (house.folder / name / "model.safetensors").write_bytes(safetensors(weights(seed) | both))
    assert await house.pack()


async def test_tensors_that_are_public_already_are_no_leak(house: House) -> None:
    base = {"model.embed_tokens.weight": weights(7)["model.embed_tokens.weight"]}
    for name, seed in (("tiny-s", 1), ("tiny-l", 2)):
        (house.folder / name / "model.safetensors").write_bytes(safetensors(weights(seed) | base))
    await leak(house, "tensor model.embed_tokens.weight")
    (house.folder / "base").mkdir()
    (house.folder / "base" / "config.json").write_text("{}")
    (house.folder / "base" / "model.safetensors").write_bytes(safetensors(base))
    house.manifest("publisher:", "references: {public: {weights: ./base}}\npublisher:")
    assert await house.pack()


@pytest.mark.parametrize(
    "text",
    [
        SYSTEM_PROMPT,
        SYSTEM_PROMPT.upper(),
        "# Card\n\nWe say: " + SYSTEM_PROMPT.replace(" ", "  ").replace("north", "\nnorth") + " and go on.",
        json.dumps({"chat": [SYSTEM_PROMPT]}),
    ],
    ids=["plain", "upper case", "in a paragraph", "in JSON"],
)
async def test_the_system_prompt_is_found_in_any_text(house: House, text: str) -> None:
    (house.folder / "train" / "notes.md").write_text(text)
    await leak(house, "components/training-code/train/notes.md", "system-prompt of tiny-l")


async def test_the_system_prompt_is_found_in_the_card_and_in_a_weights_header(house: House) -> None:
    (house.folder / "tiny-s" / "README.md").write_text("# Card\n" + SYSTEM_PROMPT)
    content = safetensors(weights(1), note=SYSTEM_PROMPT.strip())
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(content)
    await leak(house, "README.md: system-prompt", "model.safetensors: system-prompt")


async def test_a_line_of_closed_data_is_found(house: House) -> None:
    (house.folder / "train" / "sample.txt").write_text("For example:\n" + SECRET_LINE + "\n")
    await leak(house, "datasets of the family")


async def test_much_closed_data_does_not_hide_a_closed_prompt(house: House) -> None:
    lines = [
        json.dumps({"id": f"case-{n}", "text": f"a line of the closed corpus, number {n}"})
        for n in range(2000)
    ]
    (house.folder / "data" / "corpus.jsonl").write_text("\n".join(lines))
    (house.folder / "train" / "notes.md").write_text("We say: " + SYSTEM_PROMPT)
    (house.folder / "train" / "cases.jsonl").write_text(lines[1234] + "\n")
    await leak(house, "notes.md: system-prompt of tiny-l", "cases.jsonl: datasets of the family")


async def test_code_that_writes_closed_data_is_not_that_data(house: House) -> None:
    code = 'TITLE = {"title": "' + SECRET_LINE + '", "kind": "x"}\n'
    (house.folder / "train" / "write.py").write_text(code)
    assert await house.pack()


async def test_a_reason_that_tells_the_prompt_is_found_in_the_dossier(house: House) -> None:
    house.manifest("text: third-party text", "text: " + SYSTEM_PROMPT.strip())
    decision = house.decision()
    import msgspec

    told = msgspec.structs.replace(decision.components[0], because=SYSTEM_PROMPT.strip())
    decision = msgspec.structs.replace(decision, components=(told, *decision.components[1:]))
    with pytest.raises(BundleError, match=r"dutchdoor/dossier\.json: system-prompt"):
        await house.pack(decision, evidence=[])


async def test_a_closed_tokenizer_inside_open_weights_is_found(house: House) -> None:
    house.manifest(
        "    variants: [{id: f32, weights: ./tiny-s}]\n",
        "    variants: [{id: f32, weights: ./tiny-s}]\n    components: [{kind: tokenizer, intent: closed}]\n",
    )
    await leak(house, "tokenizer.json", "tokenizer of tiny-s")


async def test_what_the_check_cannot_see_is_stated_and_true(house: House) -> None:
    recast = weights(1) | {"extra": weights(2)["model.embed_tokens.weight"] * 1.0001}
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(safetensors(recast))
    assert await house.pack(evidence=[])
    assert any("changed at all" in spot for spot in BLIND_SPOTS)


def test_the_fixture_is_what_it_says(house: House) -> None:
    assert Path(house.folder / "serve" / "system.txt").read_text() == SYSTEM_PROMPT
