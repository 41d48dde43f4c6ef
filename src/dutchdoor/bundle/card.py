"""The model card that travels with a bundle: the author's own, or an honest first one.

Puts one section into it, between two marks: what is open, what is closed, and why. Invents nothing about a
model that its files and the decision do not say.
"""

import re
from collections.abc import Sequence

from dutchdoor.bundle.dossier import Node
from dutchdoor.core import Channel
from dutchdoor.family.weights import WeightsFacts
from dutchdoor.policy.decision import Decision, MemberDecision

BEGIN, END = "<!-- dutchdoor:begin -->", "<!-- dutchdoor:end -->"
_MARKED = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END) + r"\n*", re.DOTALL)
_FRONT = re.compile(r"\A---\r?\n.*?\r?\n---\r?\n", re.DOTALL)


def with_section(card: str, section: str) -> str:
    """The author's card with our section after its metadata block; an earlier section of ours is replaced."""
    bare = _MARKED.sub("", card)
    front = match.group(0) if (match := _FRONT.match(bare)) else ""
    return f"{front}\n{BEGIN}\n{section.rstrip()}\n{END}\n\n{bare[len(front) :].lstrip()}".lstrip("\n")


def new_card(name: str, family: str, version: str, license: str, facts: WeightsFacts | None) -> str:
    """A card where the author wrote none: only what the files say, and that nobody said more."""
    other = license.startswith("LicenseRef-") or " " in license
    front = ["license: other", f"license_name: {license.lower()}", "license_link: LICENSE"]
    rows = ["---", *(front if other else [f"license: {license.lower()}"]), "---", "", f"# {name}", ""]
    rows += [f"{name} is a member of the model family {family}, version {version}.", ""]
    if facts is not None:
        rows += [
            f"- architecture: {facts.architecture or 'not stated'}",
            f"- parameters: {facts.parameters:,}",
        ]
        rows += [
            f"- context length: {facts.context_length or 'not stated'} tokens",
            f"- stored as: {facts.dtype}",
        ]
    rows += [
        "",
        "Its publisher wrote no model card. Training data, intended use and limits are not stated here.",
    ]
    return "\n".join(rows) + "\n"


def family_card(family: str, version: str, nodes: Sequence[Node]) -> str:
    """The card of the bundle with what belongs to the whole family."""
    rows = [f"# {family} {version}: what belongs to the whole family", ""]
    rows += [
        f"- `{node.at}`: {node.kind}, {node.license or 'no licence stated'}" for node in nodes if node.files
    ]
    return "\n".join(rows) + "\n"


def openness_section(decision: Decision, nodes: Sequence[Node], member: str | None) -> str:
    """What is open, what is closed, why: in plain words."""
    rows = ["## What is open, what is closed, why", ""]
    if member is not None:
        reasons = _reasons(decision.members[member])
        rows += [f"The weights of **{member}** are open: this folder is all of them. {reasons}".rstrip(), ""]
    for name, other in decision.members.items():
        if name != member:
            rows.append(f"- **{name}**: {_tier(other)}")
    for node in nodes:
        if node.variant is not None:
            continue  # told with its member
        state = "open" if node.digest else f"closed by {node.closed_by}"
        because = f" ({node.because})" if node.because and not node.digest else ""
        rows.append(f"- {node.kind} of {node.member or 'the family'}: {state}{because}")
    rows += ["", "The decision with every measured value is signed in `dutchdoor/dossier.json`."]
    rows += ["Check this folder with `dutchdoor verify FOLDER`."]
    return "\n".join(rows)


def _tier(member: MemberDecision) -> str:
    download = member.channels[Channel.DOWNLOAD]
    reached = {"open-weights": "weights are open", "api": "behind an API", "held": "not released"}[
        member.tier.value
    ]
    if download.open:
        return f"{reached}."
    because = f" ({download.because})" if download.because else ""
    return f"{reached}; its weights are closed by {download.closed_by}{because}."


def _reasons(member: MemberDecision) -> str:
    gates = [v for v in member.channels[Channel.DOWNLOAD].verdicts if v.effect != "warn" and v.rule]
    names = ", ".join(dict.fromkeys(f"`{verdict.rule}`" for verdict in gates))
    return f"Its publisher intends it, and every rule that gates it passed: {names}." if names else ""
