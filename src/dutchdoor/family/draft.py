"""A first manifest from weights that lie here.

States only what headers and metadata say. What nobody can know from files (the publisher, a licence that
isn't there, what may leave) is left as a comment to fill in.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from dutchdoor.core import UsageError
from dutchdoor.family.weights import WeightsFacts, describe

UNKNOWN_LICENSE = "LicenseRef-unknown"
_SUFFIX = re.compile(
    r"[-_.]+(i?q\d\w*(_[0-9a-z]+)*|f16|f32|bf16|fp16|fp32|fp8|int8|int4|8bit|4bit|gguf|gptq|awq|mlx|ggml)$",
    re.IGNORECASE,
)
# first words of a licence's text → its SPDX id; the whole beginning must agree, with spaces evened out
_TEXTS = (
    ("apache license version 2.0, january 2004", "Apache-2.0"),
    ("mit license", "MIT"),
    ("the mit license (mit)", "MIT"),
    ("mozilla public license version 2.0", "MPL-2.0"),
    ("gnu general public license version 3, 29 june 2007", "GPL-3.0-only"),
    ("gnu affero general public license version 3, 19 november 2007", "AGPL-3.0-only"),
    ("gnu lesser general public license version 3, 29 june 2007", "LGPL-3.0-only"),
    ("creative commons legal code cc0 1.0 universal", "CC0-1.0"),
    ("cc0 1.0 universal", "CC0-1.0"),
    ("attribution 4.0 international", "CC-BY-4.0"),
    ("creative commons attribution 4.0 international public license", "CC-BY-4.0"),
    ("attribution-sharealike 4.0 international", "CC-BY-SA-4.0"),
    ("attribution-noncommercial 4.0 international", "CC-BY-NC-4.0"),
)
# words that a text of that licence has as well: some licences only begin like it
_ALSO = {"MIT": "permission is hereby granted, free of charge", "Apache-2.0": "grant of patent license"}
_LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
_LONGEST = 400_000  # bytes; the longest licence texts have some 35 kB


@dataclass(frozen=True)
class Found:
    """Weights that were given: where, what their headers say, and the licence that is stated beside them."""

    path: Path
    facts: WeightsFacts
    license: str | None
    license_from: str | None


@dataclass(frozen=True)
class Draft:
    """A manifest's text, the family's name, and in words what the publisher has to fill in."""

    text: str
    family: str
    to_fill: tuple[str, ...]


@dataclass(frozen=True)
class _Variant:
    id: str
    found: Found
    of: str | None = None


@dataclass(frozen=True)
class _Member:
    name: str
    variants: tuple[_Variant, ...]

    @property
    def parameters(self) -> int:
        return max(each.found.facts.parameters for each in self.variants)


def look_at(path: Path) -> Found:
    """Read the headers of a model folder or GGUF file, and its licence. Raises WeightsError."""
    facts = describe(path)
    text = license_of_text(path if path.is_dir() else path.parent) if path.is_dir() else None
    if facts.license is not None:
        return Found(path, facts, facts.license, "README.md" if path.is_dir() else "general.license")
    return Found(path, facts, text, None if text is None else "LICENSE")


def license_of_text(folder: Path) -> str | None:
    """The SPDX id of a folder's licence file, where its text begins exactly as that licence; else null."""
    for name in _LICENSE_FILES:
        file = folder / name
        if file.is_file() and file.stat().st_size <= _LONGEST:
            text = " ".join(file.read_text("utf-8", "replace").lower().split())
            for start, found in _TEXTS:
                if text.startswith(start) and _ALSO.get(found, "") in text:
                    return found
    return None


def draft_family(found: list[Found], out: Path, name: str | None = None) -> Draft:
    """The manifest of these weights, paths relative to `out`. Raises UsageError for a path given twice."""
    seen: dict[Path, Path] = {}
    for each in found:
        if each.path.resolve() in seen:
            raise UsageError(f"{each.path} is given twice", hint="name each folder or file once")
        if each.facts.adapter:
            raise UsageError(
                f"{each.path} is an adapter",
                hint="name its base here, then add a variant: {id: tuned, adapter: PATH, on: BASE}",
            )
        seen[each.path.resolve()] = each.path
    members = _members(found)
    family = _slug(name) if name else _shared([each.name for each in members])
    to_fill = ["publisher.name and publisher.contact"]
    lines = [
        "# The manifest of a model family. Reference: docs/reference/manifest.md",
        "kind: dutchdoor/family@1",
        f"family: {_quoted(family)}",
        "version: 0.1.0",
        "publisher: {name: FILL IN}  # and contact: release@example.org",
        "# references:  # what rules compare with",
        "#   public: {weights: ./a-model-that-is-public-already}",
        "# components:  # what else belongs to the family; open unless it says intent: closed",
        "#   - {kind: datasets, path: data/, license: CC-BY-4.0}",
        "members:",
    ]
    largest = max(members, key=lambda each: each.parameters) if len(members) > 1 else None
    for member in sorted(members, key=lambda each: (each.parameters, each.name)):
        rows, missing = _member_rows(member, out, flagship=member is largest)
        lines += rows
        to_fill += missing
    lines += [
        "policies: [policy.yaml]",
        "# promises: {notice_days: 90, successor_days: 180}  # and price_cap: {NAME: {input: 1, output: 2}}",
    ]
    to_fill.append("what each member's channels should be (intent: both are open unless you say otherwise)")
    to_fill.append("policy.yaml: suites of your own, then the rules that need them")
    return Draft("\n".join(lines) + "\n", family, tuple(to_fill))


def _in_a_line(text: str) -> str:
    """Text from a model's files that can't end a comment: what follows would be read as the manifest."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _member_rows(member: _Member, out: Path, *, flagship: bool) -> tuple[list[str], list[str]]:
    facts = member.variants[0].found.facts
    context = f", {facts.context_length} tokens of context" if facts.context_length else ""
    rows = [
        f"  - name: {_quoted(member.name)}  # {_in_a_line(facts.architecture or 'unknown')}, "
        f"{facts.parameters:,} parameters{context}"
    ]
    if flagship:
        rows.append("    role: flagship  # the largest of those given")
    missing = []
    stated = next((each.found for each in member.variants if each.found.license), None)
    if stated is None:
        rows.append(f"    license: {UNKNOWN_LICENSE}  # FILL IN: an SPDX expression; none was found")
        missing.append(f"the licence of {member.name}: none was found beside its weights")
    else:
        rows.append(f"    license: {stated.license}  # from {stated.license_from}")
    rows.append("    variants:")
    for each in member.variants:
        of = f", of: {_quoted(each.of)}" if each.of else ""
        rows.append(
            f"      - {{id: {_quoted(each.id)}, weights: {_quoted(_relative(each.found.path, out))}{of}}}"
        )
    rows += [
        "    # intent: {download: true, api: true}  # or {download: false, because: {kind: legal, text: …}}",
        "    # serve: {system_prompt: serve/system.txt, guard: serve/guard.yaml}",
        "    # price: {input: 0.10, output: 0.30}  # USD per million tokens",
    ]
    if not facts.has_chat_template:
        missing.append(f"{member.name} has no chat template: chat needs one")
    if facts.quantised:
        missing.append(
            f"{member.name} is quantised and its original was not given: "
            "a rule on tampering stays inconclusive for its download"
        )
    return rows, missing


def _members(found: list[Found]) -> list[_Member]:
    """Group what has one name but for its precision: a quantised file is a variant of its original."""
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(_stem(each.path), []).append(each)
    members = []
    for stem, group in groups.items():
        first = sorted(
            group, key=lambda each: (each.facts.quantised, each.facts.format == "gguf", str(each.path))
        )
        variants: list[_Variant] = []
        for each in first:
            original = next((v for v in variants if _same_shape(v.found, each)), None)
            taken = {v.id for v in variants}
            of = original.id if original is not None else None
            variants.append(_Variant(_free(_slug(each.facts.dtype), taken), each, of))
        members += _split(stem, variants)
    return _with_names(members)


def _same_shape(one: Found, other: Found) -> bool:
    """Whether two have as many parameters, but for what formats store differently (a tied head)."""
    a, b = one.facts.parameters, other.facts.parameters
    return not one.facts.quantised and abs(a - b) <= 0.25 * max(a, b)


def _split(stem: str, variants: list[_Variant]) -> list[_Member]:
    """Weights with one name and different sizes are different members."""
    family = [variants[0]] + [each for each in variants[1:] if each.of is not None]
    others = [each for each in variants[1:] if each.of is None]
    return [_Member(stem, tuple(family)), *(_Member(stem, (each,)) for each in others)]


def _with_names(members: list[_Member]) -> list[_Member]:
    taken: set[str] = set()
    named = []
    for each in members:
        name = _free(each.name, taken)
        taken.add(name)
        named.append(replace(each, name=name))
    return named


def _stem(path: Path) -> str:
    name = path.resolve().name if path.is_dir() else path.stem
    while (shorter := _SUFFIX.sub("", name)) != name and shorter:
        name = shorter
    return _slug(name)


def _slug(name: str) -> str:
    """A name that the manifest takes: lower case, a path segment and a model name at once."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63].rstrip("-._")
    return slug or "model"


def _free(name: str, taken: set[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name[:58]}-{number}", number + 1
    return free


def _shared(names: list[str]) -> str:
    """What all names begin with, up to a whole part; for one name, its first part."""
    if len(names) == 1:
        return names[0]
    common = names[0]
    while not all(each.startswith(common) for each in names):
        common = common[:-1]
    if not all(len(each) == len(common) or each[len(common)] in "-_." for each in names):
        common = re.sub(r"[^-_.]*$", "", common)
    return _slug(common) if common.strip("-._") else "family"


def _relative(path: Path, out: Path) -> str:
    relative = os.path.relpath(path.resolve(), out.resolve())
    return relative if relative.startswith("..") else f"./{relative}"


def _quoted(text: str) -> str:
    """A YAML scalar that is read back as this text: in quotes unless plain letters begin it."""
    plain = re.fullmatch(r"\.{0,2}/?[A-Za-z][A-Za-z0-9_./-]*", text) and text.lower() not in (
        "true",
        "false",
        "null",
    )
    return text if plain else "'" + text.replace("'", "''") + "'"
