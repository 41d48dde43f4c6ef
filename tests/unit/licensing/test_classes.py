"""Which licence meets a requirement; what isn't known is never open."""

import pytest

from dutchdoor.licensing import in_class


@pytest.mark.parametrize(
    ("expression", "required", "expected"),
    [
        ("Apache-2.0", "open-source", True),
        ("Apache-2.0", "open-data", False),
        ("CC-BY-4.0", "open-data", True),
        ("CC-BY-NC-4.0", "open-data", False),
        ("LicenseRef-mine", "open-source", None),
        ("MIT OR Apache-2.0", "open-source", True),
        ("MIT OR LicenseRef-mine", "open-source", True),
        ("CC-BY-NC-4.0 OR LicenseRef-mine", "open-source", None),
        ("MIT AND CC-BY-NC-4.0", "open-source", False),
        ("MIT AND LicenseRef-mine", "open-source", None),
        ("(MIT OR LicenseRef-mine) AND Apache-2.0", "open-source", None),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "open-source", True),
        ("MIT OR", "open-source", None),
        ("", "open-source", None),
        ("LicenseRef-mine", "LicenseRef-mine", True),
        ("Apache-2.0", "MIT", False),
    ],
)
def test_a_licence_meets_a_requirement_or_not_or_nobody_knows(
    expression: str, required: str, expected: bool | None
) -> None:
    assert in_class(expression, required) is expected
