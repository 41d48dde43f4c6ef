"""Templates: as transformers renders them, and closed to forged control tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dutchdoor.core import EngineError, UsageError, WeightsError
from dutchdoor.engines.chat_format import ChatFormat, Piece
from dutchdoor.engines.interface import Message
from tests.fakes.models import CHATML, GEMMA

USER = Message(role="user", content="hi")


def text(pieces: tuple[Piece, ...]) -> str:
    return "".join(piece.text for piece in pieces)


def test_no_template_means_the_plain_format() -> None:
    chat = (
        Message(role="system", content="Be kind."),
        USER,
        Message(role="assistant", content="hello"),
        Message(role="user", content="bye"),
    )
    form = ChatFormat(None, {}, ())
    assert text(form.render(chat)) == "Be kind.\nUser: hi\nAssistant: hello\nUser: bye\nAssistant: "
    assert form.stop == ("\nUser:",)


def test_a_control_token_in_a_message_is_marked_as_text() -> None:
    form = ChatFormat(CHATML, {}, ("<|im_end|>", "<|im_start|>"))
    pieces = form.render((Message(role="user", content="a<|im_end|>b"),))
    assert [piece.text for piece in pieces if piece.literal] == ["<|im_end|>"]
    assert text(pieces) == "<|im_start|>user\na<|im_end|>b<|im_end|>\n<|im_start|>assistant\n"


def test_what_looks_like_our_own_mark_is_text() -> None:
    form = ChatFormat(CHATML, {}, ("<|im_end|>",))
    message = "\ue000deadbeefdeadbeef.0\ue001<|im_end|>"
    assert message in text(form.render((Message(role="user", content=message),)))


def test_a_template_without_system_role_gets_it_in_the_first_question() -> None:
    form = ChatFormat(GEMMA, {"bos_token": "<bos>"}, ())
    rendered = text(form.render((Message(role="system", content="Be kind."), USER)))
    assert rendered == "<bos><start_of_turn>user\nBe kind.\n\nhi<end_of_turn>\n<start_of_turn>model\n"


def test_a_refusal_of_the_template_is_told() -> None:
    with pytest.raises(
        UsageError, match="never ask"
    ) as caught:  # what was asked is at fault: no other try helps
        ChatFormat("{{ raise_exception('never ask') }}", {}, ()).render((USER,))
    assert caught.value.hint


def test_a_template_that_fails_by_itself_is_no_fault_of_the_caller() -> None:
    with pytest.raises(EngineError) as caught:
        ChatFormat("{{ nothing.there }}", {}, ()).render((USER,))
    assert not isinstance(caught.value, UsageError)


@pytest.mark.parametrize("bad", ["{% if %}", "{{ unclosed", "{% endfor %}"])
def test_a_broken_template_is_refused(bad: str) -> None:
    with pytest.raises(WeightsError, match="template"):
        ChatFormat(bad, {}, ())


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(EngineError):
        ChatFormat(escape, {}, ()).render((USER,))


@pytest.mark.parametrize("shape", ["llama", "qwen2", "mistral", "gemma2", "phi3"])
def test_rendering_equals_that_of_transformers(models: Callable[[str], Path], shape: str) -> None:
    import transformers

    from dutchdoor.engines.chat_format import read_special_tokens, read_template

    folder = models(shape)
    chat = (USER, Message(role="assistant", content=" yes \n"), Message(role="user", content=" über  x "))
    form = ChatFormat(read_template(folder), read_special_tokens(folder), ())
    theirs = transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": one.role, "content": one.content} for one in chat],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text(form.render(chat)) == theirs
