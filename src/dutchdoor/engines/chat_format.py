"""From a chat to the text or the tokens that a model reads.

Renders the model's own Jinja template as transformers does (same sandbox, same globals), so that both engines
read the same tokens. Control tokens are only ever those that the template writes: where a message itself
contains the text of a control token (`<|im_end|>`), that text is read as plain text, so nobody can end their
turn and speak as someone else.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from dutchdoor.core import EngineError, MissingExtraError, UsageError, WeightsError
from dutchdoor.engines.interface import Message

# What a model without a template of its own reads, shared with tuning: "User: …\nAssistant: "
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
PLAIN_STOP = "\nUser:"  # with the plain format, a model that goes on writes the next question itself


class Piece(msgspec.Struct, frozen=True):
    """A stretch of a rendered chat: `literal` text holds no control token whatever it looks like."""

    text: str
    literal: bool = False


class ChatFormat:
    """A chat template with the special tokens that it may name."""

    def __init__(
        self, template: str | None, special_tokens: Mapping[str, str], control_tokens: Sequence[str]
    ) -> None:
        """`special_tokens`: {bos_token: "<s>", …} as the template names them; `control_tokens`: texts the
        tokenizer would turn into control tokens.
        """
        self.is_plain = template is None
        self.stop = (PLAIN_STOP,) if self.is_plain else ()
        self._special = dict(special_tokens)
        self._compiled = _compile(PLAIN_TEMPLATE if template is None else template)
        spellings = sorted({t for t in control_tokens if t.strip()}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def render(self, messages: Sequence[Message]) -> tuple[Piece, ...]:
        """The chat as text up to where the answer begins. Raises UsageError where the template refuses the
        chat, EngineError where it fails.
        """
        nonce = secrets.token_hex(8)  # unguessable, so no message can contain a mark of ours
        hidden: list[str] = []

        def hide(match: re.Match[str]) -> str:
            hidden.append(match.group())
            return f"\ue000{nonce}.{len(hidden) - 1}\ue001"

        def clean(text: str) -> str:
            return self._control.sub(hide, text) if self._control else text

        turns = [{"role": message.role, "content": clean(message.content)} for message in messages]
        text = self._render(turns)
        pieces: list[Piece] = []
        for index, part in enumerate(re.split(f"\ue000{nonce}\\.(\\d+)\ue001", text)):
            if index % 2:
                pieces.append(Piece(hidden[int(part)], literal=True))
            elif part:
                pieces.append(Piece(part))
        return tuple(pieces)

    def _render(self, turns: list[dict[str, str]]) -> str:
        import jinja2

        try:
            return self._apply(turns)
        except jinja2.TemplateError as error:
            if turns and turns[0]["role"] == "system":
                merged = _system_into_question(turns)
                if merged is not None:
                    try:
                        return self._apply(merged)
                    except jinja2.TemplateError:
                        pass  # not about the system message then: tell of the first error
            if type(error) is jinja2.TemplateError:  # its own raise_exception: no other try will help
                raise UsageError(
                    f"the model's chat template refuses this chat: {error}",
                    hint="most want user and assistant to take turns, and the user to begin",
                ) from error
            raise EngineError(f"the model's chat template fails on this chat: {error}") from error

    def _apply(self, turns: list[dict[str, str]]) -> str:
        return str(
            self._compiled.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=True, **self._special
            )
        )


def _system_into_question(turns: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """Gemma and some Mistral templates know no system role: its text goes before the first question."""
    if len(turns) < 2 or turns[1]["role"] != "user":
        return None
    question = turns[0]["content"] + "\n\n" + turns[1]["content"]
    return [{"role": "user", "content": question}, *turns[2:]]


def _compile(template: str) -> Any:
    """The template in the sandbox that transformers uses (transformers/utils/chat_template_utils.py)."""
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise MissingExtraError("running a model", extra="local") from error

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise WeightsError(f"the model's chat template is broken: {error}") from error


def _generation_tag() -> Any:
    """`{% generation %}…{% endgeneration %}` marks answers for training; for us it is only its content."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    return Generation


def read_template(folder: Path) -> str | None:
    """The chat template of a Hugging Face folder: chat_template.jinja, else tokenizer_config.json's; null if
    none.
    """
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several, by name
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def read_special_tokens(folder: Path) -> dict[str, str]:
    """{bos_token: "<s>", eos_token: …} of a Hugging Face folder; tokens that are null are left out."""
    rows = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    tokens: dict[str, str] = {}
    for name, value in rows.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no such file. Raises WeightsError where it is broken."""
    if not path.is_file():
        return {}
    try:
        value = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return value
