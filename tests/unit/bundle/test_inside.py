"""Closed components without a path: found in the weights, known to lie elsewhere, or refused."""

import json
from pathlib import Path

import pytest

from dutchdoor.bundle import Verdict
from dutchdoor.core import BundleError
from tests.fakes.weights import GGUF_METADATA, gguf_bytes

from .conftest import House

TEMPLATE = "{% for message in messages %}our own way of saying {{ message.content }}{% endfor %}"


def close(house: House, kind: str, path: str | None = None) -> None:
    """Give the small one, whose weights leave, a closed component."""
    row = f"{{kind: {kind}, {f'path: {path}, ' if path else ''}intent: closed}}"
    house.manifest(
        "    variants: [{id: f32, weights: ./tiny-s}]\n",
        f"    variants: [{{id: f32, weights: ./tiny-s}}]\n    components: [{row}]\n",
    )


async def refusal(house: House) -> BundleError:
    with pytest.raises(BundleError) as caught:
        await house.pack(evidence=[])
    assert not house.bundle.exists()
    return caught.value


async def test_weights_that_are_closed_as_a_component_do_not_leave(house: House) -> None:
    close(house, "model-parameters-final")
    error = await refusal(house)
    assert "the weights of tiny-s would leave" in error.message
    assert "intent: {download: false}" in str(error.hint)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json"])
async def test_a_closed_template_inside_a_settings_file_is_found(house: House, name: str) -> None:
    close(house, "chat-template")
    (house.folder / "tiny-s" / name).write_text(json.dumps({"chat_template": TEMPLATE}))
    assert f"{name} (chat_template)" in (await refusal(house)).message


async def test_a_closed_template_among_several_is_found(house: House) -> None:
    close(house, "chat-template")
    (house.folder / "tiny-s" / "chat_templates").mkdir()
    (house.folder / "tiny-s" / "chat_templates" / "tools.jinja").write_text(TEMPLATE)
    assert "chat_templates/tools.jinja: chat-template of tiny-s" in (await refusal(house)).message


async def test_a_closed_template_with_a_path_is_found_inside_the_settings(house: House) -> None:
    close(house, "chat-template", "serve/ours.jinja")
    (house.folder / "serve" / "ours.jinja").write_text(TEMPLATE + "\n")
    settings = house.folder / "tiny-s" / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": TEMPLATE}))
    assert "tokenizer_config.json: chat-template of tiny-s" in (await refusal(house)).message
    settings.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert await house.pack(evidence=[])


@pytest.mark.parametrize(
    ("kind", "key"), [("tokenizer", "tokenizer.ggml.tokens"), ("chat-template", "tokenizer.chat_template")]
)
async def test_what_is_closed_inside_a_gguf_is_found(house: House, kind: str, key: str) -> None:
    (house.folder / "tiny.gguf").write_bytes(gguf_bytes(GGUF_METADATA, {"a": ((8, 8), 0, 256)}))
    close(house, kind)
    house.manifest("[{id: f32, weights: ./tiny-s}]", "[{id: q, weights: ./tiny.gguf}]")
    assert f"tiny.gguf ({key})" in (await refusal(house)).message


@pytest.mark.parametrize(
    "kind", ["chat-template", "model-architecture", "alignment-adapter", "system-prompt"]
)
async def test_a_closed_part_of_weights_that_is_nowhere_needs_a_path(house: House, kind: str) -> None:
    close(house, kind)
    error = await refusal(house)
    assert "nothing says where it lies" in error.message
    assert "`path:`" in str(error.hint)


@pytest.mark.parametrize("kind", ["datasets", "evaluation-data", "research-paper", "training-code"])
async def test_what_lies_elsewhere_is_closed_without_a_path(house: House, kind: str) -> None:
    close(house, kind)
    assert await house.pack(evidence=[])
    assert (await house.verify()).verdict is Verdict.VALID


async def test_a_closed_prompt_that_serve_names_needs_no_path(house: House) -> None:
    close(house, "system-prompt")
    house.manifest(
        "    price: {input: 0.02, output: 0.06}",
        "    serve: {system_prompt: serve/system.txt}\n    price: null",
    )
    assert await house.pack(evidence=[])


async def test_what_the_family_closes_without_a_path_does_not_leave_with_a_member(house: House) -> None:
    house.manifest("components:\n", "components:\n  - {kind: tokenizer, intent: closed}\n")
    assert "tokenizer.json: tokenizer of the family" in (await refusal(house)).message


@pytest.mark.parametrize("path", ["tiny-s/README.md", None])
async def test_a_closed_card_stays_and_a_bare_one_is_written(house: House, path: str | None) -> None:
    close(house, "model-card", path)
    (house.folder / "tiny-s" / "README.md").write_text(
        "# Ours\n\nHow it was made is told to nobody outside.\n"
    )
    await house.pack(evidence=[])
    packed = (house.bundle / "README.md").read_text()
    assert "told to nobody" not in packed
    assert "wrote no model card" in packed


async def test_sentences_of_a_closed_document_are_found_in_another(house: House) -> None:
    sentence = "What this model was trained on is told to nobody outside of this house."
    (house.folder / "notes.md").write_text(sentence + "\n")
    (house.folder / "tiny-s" / "README.md").write_text(f"# Tiny\n\n{sentence}\n")
    close(house, "technical-report", "notes.md")
    assert "README.md: technical-report of tiny-s" in (await refusal(house)).message


async def test_cards_of_one_family_share_sentences_though_one_member_is_closed(house: House) -> None:
    sentence = "This is a model of the tiny family, made by Example Lab with patience and care."
    for name in ("tiny-s", "tiny-l"):
        (house.folder / name / "README.md").write_text(f"# {name}\n\n{sentence}\n")
    house.manifest(
        "    serve: {system_prompt: serve/system.txt}\n",
        "    serve: {system_prompt: serve/system.txt}\n"
        "    components: [{kind: model-card, path: tiny-l/README.md}]\n",
    )
    assert await house.pack(evidence=[])
    assert sentence in (house.bundle / "README.md").read_text()


def test_the_fixture_has_no_card(house: House) -> None:
    assert not Path(house.folder / "tiny-s" / "README.md").exists()
