"""Schemas: what llama.cpp would let go is refused, with the keyword's name; what is ordinary is taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.core import EngineError, UsageError
from dutchdoor.engines import llama_cpp
from dutchdoor.engines.answer import ask
from dutchdoor.engines.json_text import begins_json, is_json
from dutchdoor.engines.schema import check_schema
from tests.unit.engines.conftest import Opener, question

YES: dict[str, Any] = {"type": "boolean"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


TREE = {"type": "object", "properties": {"parts": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
ORDINARY: list[dict[str, Any]] = [
    {},
    an_object(name={"type": "string", "minLength": 1, "maxLength": 9}, age={"type": "integer", "minimum": 0}),
    {"anyOf": [an_object(a=YES), an_object(b=YES)]},
    an_object(a={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "A"}),
    {"oneOf": [an_object(kind={"const": "a"}, v=YES), an_object(kind={"const": "b"}, v=YES)]},
    {"oneOf": [YES, {"type": ["null", "integer"]}]},
    {"oneOf": [{"anyOf": [YES, {"type": "null"}]}, {"type": "integer"}]},
    {"oneOf": [{"enum": ["x", "y"]}, {"const": "z"}]},
    {"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"},
    {"type": "object", "properties": {"inner": {"$ref": "#"}}},
    {"$defs": {"e": {"enum": ["x", "y"]}}, "allOf": [{"$ref": "#/$defs/e"}]},
    {"allOf": [{**an_object(a=YES), "additionalProperties": False}]},
    {"type": ["integer", "null"], "enum": [1, None]},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "string", "pattern": r"^\d{3}$"},
    {"type": "object", "properties": {"a": YES}, "required": ["b"]},
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (r"oneOf", {"oneOf": [an_object(a=YES), an_object(b=YES)]}),
    (r"oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    (r"oneOf", {"oneOf": [{"enum": ["x", "y"]}, {"const": "y"}]}),
    (r"oneOf", an_object(x={"oneOf": [an_object(a=YES), an_object(b=YES)]})),
    (r"\$ref", {"$ref": "#"}),
    (r"\$ref", {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    (r"\$ref", {"$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}, YES]}}, "$ref": "#/$defs/n"}),
    (r"\$ref", an_object(a={"$ref": "#name"})),
    (r"minLength", {"type": "string", "minLength": "a"}),
    (r"minLength", {"type": "string", "minLength": -1}),
    (r"maxLength", {"type": "string", "maxLength": 2.0}),
    (r"minimum", {"type": "integer", "minimum": "3"}),
    (r"exclusiveMinimum", {"type": "integer", "minimum": 5, "exclusiveMinimum": True}),
    (r"required", {"type": "object", "properties": {"a": YES}, "required": "a"}),
    (r"required", {"type": "object", "properties": {"a": YES}, "required": [1]}),
    (r"minLength", {"type": "string", "minLength": 5, "maxLength": 2}),
    (r"minItems", {"type": "array", "minItems": 5, "maxItems": 2}),
    (r"minimum", {"type": "integer", "minimum": 5, "maximum": 2}),
    (r"exclusiveMinimum", {"type": "number", "exclusiveMinimum": 5, "maximum": 5}),
    (r"maxLength", {"type": "string", "maxLength": 10**30}),
    (r"maxItems", {"type": "array", "maxItems": 10**9}),
    (r"maximum", {"type": "number", "maximum": 1e308}),
    (r"const", {"type": "integer", "const": "x"}),
    (r"enum", {"type": "integer", "enum": ["x", None]}),
    (
        r"required",
        {"type": "object", "properties": {"a": YES}, "required": ["b"], "additionalProperties": False},
    ),
    (r"allOf", {"allOf": [an_object(a=YES)], "additionalProperties": False}),
    (r"allOf", {"allOf": [{**an_object(a=YES), "additionalProperties": False}, an_object(b=YES)]}),
    (r"pattern", {"type": "string", "pattern": "^(a{1000}){1000}$"}),
    (r"larger", {"enum": ["x" * 300_000]}),
]
# read here as satisfiable, and yet llama.cpp answers freely: only trying finds them
FOUND_BY_TRYING: list[dict[str, Any]] = [
    {"enum": ["abc"], "type": "string", "maxLength": 2},
    {"enum": ["x"], "const": "y"},
    {"type": "string", "pattern": "a^b"},
    {"type": "string", "pattern": "^(a|$)b$"},
    {"allOf": [an_object(a=YES), an_object(a={"type": "null"})]},
]


@pytest.mark.parametrize(("keyword", "schema"), REFUSED)
def test_what_llama_cpp_would_let_go_is_refused_by_its_keyword(keyword: str, schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=keyword) as caught:
        check_schema(schema)
    assert caught.value.hint


async def test_ordinary_schemas_are_taken_and_held_to(models: Callable[[str], Path], opened: Opener) -> None:
    engine = await opened(models("qwen2"))
    for schema in ORDINARY:
        answer = await ask(engine, question(json_schema=schema, max_tokens=1, temperature=1.0, seed=1))
        assert answer.text.strip()[:1] in tuple('{["-0123456789tfn') or not answer.text.strip(), schema


async def test_a_schema_that_only_llama_cpp_cannot_read_is_found_by_trying(
    models: Callable[[str], Path], opened: Opener
) -> None:
    engine = await opened(models("qwen2"))
    for schema in FOUND_BY_TRYING:
        check_schema(schema)
        for _ in range(2):  # the second time it is remembered
            with pytest.raises(UsageError, match="does not take it"):
                await ask(engine, question(json_schema=schema))


async def test_an_answer_that_ends_as_no_json_is_an_error(
    models: Callable[[str], Path], opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await opened(models("qwen2"))
    schema = {"enum": ["red"]}
    assert (await ask(engine, question(json_schema=schema))).text == '"red"'
    monkeypatch.setattr(llama_cpp, "_finish", lambda data: "stop")  # as if it had let the schema go
    with pytest.raises(EngineError, match="did not hold"):
        await ask(engine, question(json_schema=schema, max_tokens=1))


def test_every_beginning_of_json_may_go_on_and_other_text_may_not() -> None:
    whole = r'{"a": [-1.5e+3, true, null, "\ud83d\ude00 \n ü"], "b": {}}'
    assert all(begins_json(whole[:end]) for end in range(len(whole) + 1))
    assert is_json(whole) and is_json("9" * 5000) and not is_json(whole[:-1])
    for text in ("9 children", '"^\x03', "Hello", "{}x", "{a"):
        assert not begins_json(text)
