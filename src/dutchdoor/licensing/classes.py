"""Which licences count as open source, and which as open data.

Open source: approved by the Open Source Initiative (opensource.org/licenses). Open data: conformant with the
Open Definition 2.1 (opendefinition.org/licenses), and the CDLA licences in its spirit. A licence that isn't
in the tables is unknown, never open.
"""

from typing import Literal

from dutchdoor.family import spdx

LicenseClass = Literal["open-source", "open-data"]

OPEN_SOURCE = frozenset({
    "Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "Zlib", "Unlicense",
    "0BSD", "MPL-2.0", "EPL-2.0", "EUPL-1.2", "LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only",
    "LGPL-3.0-or-later", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later",
    "AGPL-3.0-only", "AGPL-3.0-or-later", "AFL-3.0", "ECL-2.0", "MS-PL", "MulanPSL-2.0", "OSL-3.0",
    "PostgreSQL", "NCSA", "Artistic-2.0", "OFL-1.1", "Python-2.0", "LPPL-1.3c",
})  # fmt: skip
OPEN_DATA = frozenset({
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "PDDL-1.0", "ODC-By-1.0", "ODbL-1.0",
    "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0",
})  # fmt: skip
_CLASSES = {"open-source": OPEN_SOURCE, "open-data": OPEN_DATA}


def in_class(expression: str, required: str) -> bool | None:
    """Whether a licence expression meets a requirement: a class, or an SPDX expression it must equal.

    Of `A OR B` the user may choose, so one is enough; of `A AND B` both are needed, and both of a mix. Null
    when a licence isn't known here: unknown is never open.
    """
    if required not in _CLASSES:
        return expression == required
    ids = spdx.ids(expression)
    if spdx.fault(expression) is not None or not ids:
        return None
    held = [_one(each, _CLASSES[required]) for each in ids]
    if " OR " in expression and " AND " not in expression:
        return True if True in held else None if None in held else False
    return False if False in held else None if None in held else True


def _one(name: str, allowed: frozenset[str]) -> bool | None:
    if name in allowed:
        return True
    return False if name in spdx.KNOWN else None
