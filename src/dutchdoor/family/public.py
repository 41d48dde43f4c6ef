"""The public form of a family: open parts as they are, closed ones by kind, size, reason and commitment.

A commitment binds the publisher to bytes that it doesn't show: whoever is later given the salt and the bytes
can check that they are the ones. Tells nothing about a closed part that its commitment, kind and size class
don't.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, digest_file, digest_tree, digest_value
from dutchdoor.family.load import REFERENCE_VARIANT, LoadedFamily
from dutchdoor.family.manifest import Component, Member, Variant
from dutchdoor.family.weights import size_class, variant_digest

KIND = "dutchdoor/public-family@1"
SALT_BYTES = 32  # 256 bits: more than anyone can try, also where the digest is guessable
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_BYTE_CLASSES = ((10**3, "1 kB"), (10**6, "1 MB"), (10**9, "1 GB"), (10**12, "1 TB"))

Salts = Callable[[str], bytes]  # from a digest to the salt that was made for it


@dataclass(frozen=True)
class Closed:
    """Why a part is closed, as the decision says."""

    by: str  # choice | evidence | inconclusive | no-rule
    because: str | None = None


@dataclass(frozen=True)
class Closings:
    """What a decision closes.

    Downloads by member; components by member (null: the family's), kind and path.
    """

    downloads: Mapping[str, Closed]
    components: Mapping[tuple[str | None, str, str | None], Closed]


def commitment(domain: str, family: str, component: str, salt: bytes, digest: str) -> str:
    """`commit:sha256:` and the SHA-256 of the canonical JSON of all five, the salt in hex.

    Raises ValueError for a salt that isn't 32 bytes, or a digest that isn't `sha256:` and 64 hex digits.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    if not _DIGEST.match(digest):
        raise ValueError(f"{digest!r} is no digest")
    value = {
        "kind": "dutchdoor/commitment@1",
        "domain": domain,
        "family": family,
        "component": component,
        "salt": salt.hex(),
        "digest": digest,
    }
    return "commit:" + digest_value(value)


def opens(held: str, domain: str, family: str, component: str, salt: bytes, digest: str) -> bool:
    """Whether a commitment is to these bytes: what someone who was shown salt and bytes checks."""
    return held == commitment(domain, family, component, salt, digest)


def public_form(
    loaded: LoadedFamily, closings: Closings, salts: Salts, cache: Path | None = None
) -> dict[str, Any]:
    """A family as the public may see it, in JSON values.

    Open variants carry digest, salt and commitment, so that evidence, which names them by commitment, can be
    tied to the bytes in hand. Everything closed stands in `closed`, one row a part: member, kind, size,
    closed_by, because, commitment.
    """
    family = loaded.family
    writer = _Writer(loaded, salts, cache)
    members = [writer.member(member, closings) for member in family.members]
    components = writer.components(None, family.components, closings)
    form: dict[str, Any] = {
        "kind": KIND,
        "family": family.family,
        "version": family.version,
        "publisher": msgspec.to_builtins(family.publisher),
        "references": {name: writer.reference(name) for name in family.references},
        "policies": [writer.policy(name) for name in family.policies],
        "components": components,
        "members": members,
        "promises": msgspec.to_builtins(family.promises),
        "closed": writer.closed,
    }
    if family.supersedes is not None:
        form["supersedes"] = msgspec.to_builtins(family.supersedes)
    return form


class _Writer:
    """Writes the parts of one form, and keeps the rows of what is closed."""

    def __init__(self, loaded: LoadedFamily, salts: Salts, cache: Path | None) -> None:
        self.loaded, self.salts, self.cache = loaded, salts, cache
        self.closed: list[dict[str, Any]] = []

    def commit(self, domain: str, component: str, digest: str) -> str:
        return commitment(domain, self.loaded.family.family, component, self.salts(digest), digest)

    def policy(self, name: str) -> dict[str, Any]:
        """A policy by name and digest: criteria are public, so a reviewer may hold the file against it."""
        return {"path": Path(name).name, "digest": digest_file(self.loaded.resolve(name))}

    def reference(self, name: str) -> dict[str, Any]:
        """A reference by digest: it is public already, or was released before."""
        path = self.loaded.reference_path(name)
        if path is None:
            return {"digest": None}
        digest = variant_digest(path, self.cache)
        return {"digest": digest, **self._opening("variant", f"{name}/{REFERENCE_VARIANT}", digest)}

    def _opening(self, domain: str, component: str, digest: str) -> dict[str, Any]:
        return {"commitment": self.commit(domain, component, digest), "salt": self.salts(digest).hex()}

    def member(self, member: Member, closings: Closings) -> dict[str, Any]:
        shut = closings.downloads.get(member.name)
        row: dict[str, Any] = {"name": member.name}
        for name in ("role", "license", "price"):
            if (value := getattr(member, name)) is not None:
                row[name] = msgspec.to_builtins(value)
        row["intent"] = {"download": member.intent.download, "api": member.intent.api}
        if member.intent.because is not None:
            row["intent"]["because"] = msgspec.to_builtins(member.intent.because)
        if member.intent.download_after is not None:
            row["intent"]["download_after"] = member.intent.download_after.isoformat()
        row["variants"] = [self.variant(member, each, shut) for each in member.variants]
        if (serve := self.serve(member)) is not None:
            row["serve"] = serve
        row["components"] = self.components(member.name, member.components, closings)
        return row

    def variant(self, member: Member, variant: Variant, shut: Closed | None) -> dict[str, Any]:
        component = f"{member.name}/{variant.id}"
        path = self.loaded.weights_path(member.name, variant.id)
        row: dict[str, Any] = {"id": variant.id}
        for name in ("of", "on"):
            if (value := getattr(variant, name)) is not None:
                row[name] = value
        if path is None:  # served elsewhere: nobody here has bytes to commit to
            if member.serve.target is not None:
                digest = digest_value({"url": member.serve.target.url, "model": member.serve.target.model})
                row["commitment"] = self.commit("target", component, digest)
                self._close(
                    member.name, "model-parameters-final", shut, row["commitment"], None, variant=variant.id
                )
            return row
        digest = variant_digest(path, self.cache)
        if shut is None:
            return {**row, "digest": digest, **self._opening("variant", component, digest)}
        facts = self.loaded.facts(member.name, variant.id)
        size = None if facts is None else size_class(facts.parameters) + " parameters"
        row["commitment"] = self.commit("variant", component, digest)
        self._close(member.name, "model-parameters-final", shut, row["commitment"], size, variant=variant.id)
        return row

    def serve(self, member: Member) -> dict[str, Any] | None:
        """How the API serves a member.

        Which variant, and a commitment to what guards it. Never a URL or a key's name.
        """
        serve = member.serve
        row: dict[str, Any] = {} if serve.variant is None else {"variant": serve.variant}
        if serve.system_prompt is not None or serve.guard is not None:
            parts = {"system_prompt": serve.system_prompt, "guard": serve.guard}
            files = {
                name: digest_file(self.loaded.resolve(path)) if path else None for name, path in parts.items()
            }
            row["commitment"] = self.commit("serve", f"{member.name}/serve", digest_value(files))
            row["has"] = [name for name, path in parts.items() if path]
        if serve.target is not None:
            row["elsewhere"] = True
        return row or None

    def components(
        self, member: str | None, components: tuple[Component, ...], closings: Closings
    ) -> list[dict[str, Any]]:
        """The open components as they are; the closed ones, also those nobody listed, go to `closed`."""
        listed = [(each.kind, each.path) for each in components]
        implied = [key[1:] for key in closings.components if key[0] == member and key[1:] not in listed]
        for kind, path in [*listed, *implied]:
            shut = closings.components.get((member, kind, path))
            if shut is not None:
                self._component(member, kind, path, shut)
        return [
            {name: value for name, value in msgspec.to_builtins(each).items() if name != "intent"}
            for each in components
            if (member, each.kind, each.path) not in closings.components
        ]

    def _component(self, member: str | None, kind: str, path: str | None, shut: Closed) -> None:
        if path is None:
            self._close(member, kind, shut, None, None)
            return
        digest, size = component_digest(self.loaded.resolve(path))
        name = f"{member or '_family'}/{kind}"
        self._close(member, kind, shut, self.commit("component", name, digest), byte_class(size))

    def _close(
        self,
        member: str | None,
        kind: str,
        shut: Closed | None,
        held: str | None,
        size: str | None,
        variant: str | None = None,
    ) -> None:
        row = {
            "member": member,
            "kind": kind,
            "size": size,
            "closed_by": None if shut is None else shut.by,
            "because": None if shut is None else shut.because,
            "commitment": held,
        }
        self.closed.append(row if variant is None else {**row, "variant": variant})


def component_digest(path: Path) -> tuple[str, int]:
    """The digest of a component's file, or of the tree of its files, and its size in bytes.

    Raises DocumentError for a link that leaves the folder: it would bring in what nobody named.
    """
    if path.is_file():
        return digest_file(path), path.stat().st_size
    digests, size = {}, 0
    for each in sorted(path.rglob("*")):
        if not each.resolve().is_relative_to(path.resolve()):
            raise DocumentError(
                f"{each} is a link that leaves its folder", hint="copy the file into the folder"
            )
        if each.is_file() and "__pycache__" not in each.parts:
            digests[each.relative_to(path).as_posix()] = digest_file(each)
            size += each.stat().st_size
    return digest_tree(digests), size


def byte_class(size: int) -> str:
    """A size in bytes that says no more than its order of magnitude in thousands."""
    above = next((name for limit, name in _BYTE_CLASSES if size < limit), None)
    return f"below {above}" if above else f"above {_BYTE_CLASSES[-1][1]}"
