"""Licence expressions are told from what only looks like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dutchdoor.family import spdx


@pytest.mark.parametrize(
    "expression",
    ["MIT", "Apache-2.0", "MIT OR Apache-2.0", "(MIT AND BSD-3-Clause) OR LicenseRef-x", "GPL-2.0-only WITH Foo-1.0",
     "DocumentRef-a:LicenseRef-b", "GPL-2.0+"],
)  # fmt: skip
def test_expressions(expression: str) -> None:
    assert spdx.fault(expression) is None


@pytest.mark.parametrize(
    "text", ["", "MIT Apache-2.0", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT, BSD", "()", "a/b"]
)
def test_what_is_no_expression_says_why(text: str) -> None:
    assert spdx.fault(text)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("Apache 2.0", "Apache-2.0"),
        ("gpl-3.0", "GPL-3.0-only"),
        ("other", None),
        ("bsd", None),
    ],
)
def test_what_people_write_is_recognised_only_where_it_is_plain(stated: str, expected: str | None) -> None:
    assert spdx.canonical(stated) == expected


def test_a_suggestion_is_made_inside_an_expression_too() -> None:
    assert spdx.suggestion("mit OR (apache-2.0 AND LicenseRef-x)") == "MIT OR (Apache-2.0 AND LicenseRef-x)"
    assert spdx.suggestion("MIT") is None


def test_the_ids_of_an_expression_leave_exceptions_out() -> None:
    assert spdx.ids("(MIT OR GPL-2.0-only WITH Foo-1.0)") == ("MIT", "GPL-2.0-only")


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    assert spdx.fault(text) is None or spdx.fault(text)
    spdx.suggestion(text)
    spdx.ids(text)
