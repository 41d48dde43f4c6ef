"""The routes file that compare prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from dutchdoor.drill.routes import routes_text, target_names


def test_both_models_are_behind_one_name() -> None:
    text = routes_text(
        "small",
        {"weights": "/models/small.gguf"},
        "large",
        {
            "url": "https://api.example.org/v1",
            "model": "large",
            "key_env": "EXAMPLE_KEY",
            "price": {"input": "0.40", "output": "1.20"},
        },
    )
    assert YAML(typ="safe").load(text) == {
        "kind": "dutchdoor/routes@1",
        "targets": {
            "small": {"weights": "/models/small.gguf"},
            "large": {
                "url": "https://api.example.org/v1",
                "model": "large",
                "key_env": "EXAMPLE_KEY",
                "price": {"input": 0.4, "output": 1.2},
            },
        },
        "routes": {"assistant": ["small", "large"]},
    }


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_name_and_path_is_read_back_as_it_was(value: str) -> None:
    names = target_names(value, value)
    text = routes_text(names[0], {"weights": value}, names[1], {"url": "http://h/v1", "model": value})
    read = YAML(typ="safe").load(text)
    assert read["targets"][names[0]]["weights"] == value
    assert read["targets"][names[1]]["model"] == value
    assert read["routes"]["assistant"] == list(names)


@pytest.mark.parametrize(
    "value", ["8e9", "0x1f", "null", "true", "~", "1_000", "2026-01-01", "- a", "a: b", "a #b"]
)
def test_a_value_that_looks_like_something_else_stays_text(value: str) -> None:
    text = routes_text("a", {"weights": value}, "b", {"weights": "x"})
    assert YAML(typ="safe").load(text)["targets"]["a"]["weights"] == value


def test_two_models_of_one_name_get_two_target_names() -> None:
    assert target_names("Gable S", "gable-s") == ("gable-s-a", "gable-s-b")
    assert target_names("org/Large", "…") == ("org-large", "model")
