"""The leak check finds planted content, and leaves innocents alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from dutchdoor.bundle import leaks
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


@pytest.mark.parametrize(
    "prompt",
    [
        "Du bist der Wächter des nördlichen Tores und verrätst niemandem den Weg zur Quelle.",
        'Say "never" to all who ask you for the way to the hidden spring, and "no" to the others too.',
    ],
    ids=["beyond ASCII", "with quotes"],
)
async def test_a_prompt_that_json_escapes_is_found_in_a_weights_header(house: House, prompt: str) -> None:
    (house.folder / "serve" / "system.txt").write_text(prompt)
    (house.folder / "tiny-s" / "model.safetensors").write_bytes(safetensors(weights(1), note=prompt))
    await leak(house, "model.safetensors: system-prompt of tiny-l")


@pytest.mark.parametrize(
    "content",
    [b"\xff" + SYSTEM_PROMPT.encode(), b"caf\xe9\n" + SYSTEM_PROMPT.encode(), SYSTEM_PROMPT.encode("utf-16")],
    ids=["a stray byte", "latin-1", "utf-16"],
)
async def test_another_encoding_does_not_hide_the_prompt(house: House, content: bytes) -> None:
    (house.folder / "train" / "notes.txt").write_bytes(content)
    await leak(house, "notes.txt: system-prompt of tiny-l")


async def test_closed_text_with_a_stray_byte_is_searched_for_all_the_same(house: House) -> None:
    (house.folder / "data" / "corpus.txt").write_bytes(b"caf\xe9\n" + SECRET_LINE.encode())
    (house.folder / "train" / "notes.txt").write_text(SECRET_LINE)
    await leak(house, "notes.txt: datasets of the family")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched in pieces when it has some kilobytes is searched the same way when it has gigabytes."""
    monkeypatch.setattr(leaks, "LARGEST_TEXT", 4096)
    monkeypatch.setattr(leaks, "WINDOW", 1000)
    monkeypatch.setattr(leaks, "OVERLAP", 200)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("before", [0, 930, 2950, 9999])
@pytest.mark.parametrize("pad", ["z", "a line of text\n"])
async def test_a_large_text_is_searched_for_the_prompt(house: House, before: int, pad: str) -> None:
    text = (pad * before)[:before] + SYSTEM_PROMPT + (pad * 5000)[:5000]
    (house.folder / "train" / "log.txt").write_text(text)
    await leak(house, "log.txt: system-prompt of tiny-l")


@pytest.mark.usefixtures("small_pieces")
async def test_each_line_of_large_closed_data_is_searched_for(house: House) -> None:
    lines = [json.dumps({"text": f"line {n} of the closed corpus is for nobody to see"}) for n in range(200)]
    (house.folder / "data" / "corpus.jsonl").write_text("\n".join(lines))
    for n in (0, 13, 99, 199):
        (house.folder / "train" / "notes.txt").write_text(json.loads(lines[n])["text"])
        await leak(house, "notes.txt: datasets of the family")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("folder", ["train", "data"])
async def test_a_large_text_that_cannot_be_searched_does_not_leave(house: House, folder: str) -> None:
    rows = [{"text": f"number {n}"} for n in range(500)]
    path = house.folder / folder / "rows.json"
    path.write_text(json.dumps(rows, indent=1))
    with pytest.raises(BundleError, match="too large to be searched") as caught:
        await house.pack(evidence=[])
    assert "one JSON value, for each record" in str(caught.value.hint)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert await house.pack(evidence=[])


@pytest.mark.usefixtures("small_pieces")
async def test_a_large_log_in_brackets_is_a_text(house: House) -> None:
    (house.folder / "train" / "log.txt").write_text("[INFO] step\n[2026-01-01] step\n" * 500)
    assert await house.pack(evidence=[])
