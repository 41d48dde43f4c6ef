"""Licence expressions: whether one can be meant, and the SPDX spelling of what people write.

Knows no terms and gives no advice: see `dutchdoor.licensing`.
"""

import re

# ids that models, data and code are released under; an id that isn't here is accepted when its form is right
KNOWN = (
    "Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "Zlib", "Unlicense",
    "0BSD", "WTFPL", "MPL-2.0", "EPL-2.0", "EUPL-1.2", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
    "LGPL-3.0-or-later", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later",
    "AGPL-3.0-only", "AGPL-3.0-or-later", "AFL-3.0", "ECL-2.0", "MS-PL", "MulanPSL-2.0", "OSL-3.0",
    "PostgreSQL", "NCSA", "Artistic-2.0", "OFL-1.1", "CC0-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0",
    "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0",
    "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0", "CC-BY-ND-4.0", "PDDL-1.0", "ODC-By-1.0",
    "ODbL-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0", "C-UDA-1.0", "Python-2.0",
    "PSF-2.0", "LPPL-1.3c", "GFDL-1.3-only", "OpenMDW-1.0",
)  # fmt: skip
_BY_LOWER = {each.lower(): each for each in KNOWN}
_ALSO = {  # what hubs and people write
    "apache 2.0": "Apache-2.0", "apache-2": "Apache-2.0", "apache2": "Apache-2.0",
    "apache license 2.0": "Apache-2.0", "gpl-3.0": "GPL-3.0-only", "gpl-2.0": "GPL-2.0-only",
    "agpl-3.0": "AGPL-3.0-only", "lgpl-3.0": "LGPL-3.0-only", "lgpl-2.1": "LGPL-2.1-only", "cc0": "CC0-1.0",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "odc-by": "ODC-By-1.0", "cdla-permissive": "CDLA-Permissive-2.0",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(\(|\)|[A-Za-z0-9][A-Za-z0-9.+-]*(?::[A-Za-z0-9.-]+)?)")


def canonical(stated: str) -> str | None:
    """The SPDX id that a stated name means, or null when that can't be told."""
    name = " ".join(stated.split()).lower()
    return _BY_LOWER.get(name) or _ALSO.get(name)


def fault(expression: str) -> str | None:
    """Why a text is no SPDX licence expression (SPDX 3.0, annex on expressions); null when it is one."""
    tokens = _tokens(expression)
    if tokens is None:
        return "it holds characters that no SPDX expression has"
    if not tokens:
        return "it is empty"
    depth, wants_id = 0, True
    for word in tokens:
        if word == "(":
            if not wants_id:
                return "an operator is missing before `(`"
            depth += 1
        elif word == ")":
            if wants_id or depth == 0:
                return "a `)` that nothing opens, or after an operator"
            depth -= 1
        elif word in ("AND", "OR", "WITH"):
            if wants_id:
                return f"a licence is missing before {word}"
            wants_id = True
        elif not wants_id:
            return "two licences without AND or OR between them"
        else:
            wants_id = False
    if wants_id or depth:
        return "it ends too early"
    return None


def ids(expression: str) -> tuple[str, ...]:
    """The licence ids in an expression, exceptions after WITH left out."""
    tokens = _tokens(expression) or []
    return tuple(
        token
        for before, token in zip(["", *tokens], tokens, strict=False)
        if token not in ("(", ")", "AND", "OR", "WITH") and before != "WITH"
    )


def suggestion(expression: str) -> str | None:
    """The expression that was probably meant, where one id is only spelt in another way; else null."""
    if (whole := canonical(expression)) is not None:
        return whole if whole != expression else None
    tokens = _tokens(expression)
    if tokens is None:
        return None
    better = [canonical(token) or token for token in tokens]
    return None if better == tokens else " ".join(better).replace("( ", "(").replace(" )", ")")


def _tokens(expression: str) -> list[str] | None:
    found, at, text = [], 0, expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        found.append(match[1])
        at = match.end()
    return found
