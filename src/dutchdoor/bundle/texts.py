"""The texts of a bundle: card, licence, notice.

Refuses a part that leaves without a licence.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path

from dutchdoor.bundle.card import family_card, new_card, openness_section, with_section
from dutchdoor.bundle.dossier import Node
from dutchdoor.bundle.gather import Release
from dutchdoor.bundle.layout import CARD, LICENCE, LICENCES, NOTICE
from dutchdoor.bundle.licences import KNOWN, known_text, licence_text, notice_text, read_text
from dutchdoor.bundle.parts import Part
from dutchdoor.core import BundleError


def member_texts(release: Release, name: str) -> dict[str, str]:
    """Card, licence and notice of a member's bundle."""
    family, member = release.loaded.family, release.loaded.member(name)
    parts = release.parts[name]
    if not member.license:
        raise BundleError(
            f"{name} has no licence, so nobody may use it", hint="add `license: …` to the member"
        )
    folders = [part.source if part.source.is_dir() else part.source.parent for part in parts if part.variant]
    card = folders[0] / CARD
    facts = release.loaded.facts(name, member.variants[0].id)
    own = (
        read_text(card)
        if card.is_file() and card.resolve() not in _closed_files(release)
        else new_card(name, family.family, family.version, member.license, facts)
    )
    section = openness_section(release.decision, release.tree.nodes, name)
    holder, year = family.publisher.name, _year(release)
    notice = f"{name} {family.version}, of the model family {family.family}\nPublished by {holder}, {year}\n"
    return {
        CARD: with_section(own, section),
        LICENCE: licence_text(member.license, folders, holder=holder, year=year, whose=name),
        NOTICE: notice_text(folders, default=notice),
        **_component_licences([part for part in parts if part.license != member.license], release),
    }


def _closed_files(release: Release) -> set[Path]:
    """The files of closed components: a closed card that got our section would be another file, and leave."""
    return {path.resolve() for part in release.closed for path in part.files.values()}


def family_texts(release: Release, nodes: Sequence[Node]) -> dict[str, str]:
    """Card and licences of what belongs to the whole family."""
    family, parts = release.loaded.family, release.parts[None]
    rows = [f"{part.at}: {part.license or ''}" for part in parts]
    texts = _component_licences(parts, release)
    section = openness_section(release.decision, release.tree.nodes, None)
    return {
        CARD: with_section(family_card(family.family, family.version, nodes), section),
        LICENCE: f"Each component has its own licence; the texts are in {LICENCES}/:\n\n"
        + "\n".join(rows)
        + "\n",
        **texts,
    }


def _component_licences(parts: Sequence[Part], release: Release) -> dict[str, str]:
    """The texts of components' licences. Raises BundleError for a component without a licence or its text."""
    texts: dict[str, str] = {}
    for part in parts:
        if not part.license:
            raise BundleError(
                f"the {part.kind} of {part.member or 'the family'} has no licence, so nobody may use it",
                hint="add `license: …` to the component",
            )
        name = f"{LICENCES}/{part.license.replace(' ', '-')}.txt"
        if part.license in KNOWN:
            texts[name] = known_text(
                part.license, holder=release.loaded.family.publisher.name, year=_year(release)
            )
        elif "LicenseRef" in part.license:
            folder = part.source if part.source.is_dir() else part.source.parent
            texts[name] = licence_text(part.license, [folder], holder="", year=0, whose=str(part.source))
        else:
            texts[name] = f"{part.license}: the text is at https://spdx.org/licenses/{part.license}.html\n"
    return texts


def _year(release: Release) -> int:
    return datetime.datetime.fromisoformat(release.made_at).year
