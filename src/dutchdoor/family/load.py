"""A manifest that was read, checked across its fields, and knows where its files lie.

Refuses names that collide, references to what isn't there, files that are missing, a price above its own cap.
Reads weights' headers on demand; loads nothing and decides nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dutchdoor.core import DocumentError, WeightsError
from dutchdoor.family import spdx
from dutchdoor.family.document import Document, open_document
from dutchdoor.family.manifest import Component, Family, Member, Price, Variant
from dutchdoor.family.weights import WeightsFacts, describe

REFERENCE_VARIANT = "weights"  # the variant id of a reference, in evidence and commitments
RESERVED = frozenset({"flagship"})  # what `relative_to` means otherwise
_HUB = re.compile(r"^hf://[\w.-]+/[\w.-]+@[\w./-]+$")


@dataclass(frozen=True)
class LoadedFamily:
    """A family with its folder: every relative path in the manifest is relative to that."""

    family: Family
    folder: Path
    path: Path
    _facts: dict[Path, WeightsFacts | WeightsError] = field(default_factory=dict, repr=False, compare=False)

    def resolve(self, relative: str) -> Path:
        """Where a path of the manifest lies. Raises DocumentError for what can be no path on this machine."""
        path = self.folder / relative
        try:
            path.stat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:  # a part too long, a NUL, a file where a folder should be
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise DocumentError(
                f"{relative[:80]!r} can't be read: {why}", hint="give another path"
            ) from error
        return path

    def member(self, name: str) -> Member:
        """A member by name. Raises DocumentError, naming those there are."""
        for each in self.family.members:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.family.members)
        raise DocumentError(f"{self.path}: there is no member {name!r}", hint=f"members: {known}")

    def variant(self, member: str, variant: str) -> Variant:
        """A variant by member and id. Raises DocumentError."""
        for each in self.member(member).variants:
            if each.id == variant:
                return each
        known = ", ".join(each.id for each in self.member(member).variants)
        raise DocumentError(f"{self.path}: {member} has no variant {variant!r}", hint=f"variants: {known}")

    @property
    def flagship(self) -> Member | None:
        """The member with `role: flagship`."""
        return next((each for each in self.family.members if each.role == "flagship"), None)

    def weights_path(self, member: str, variant: str) -> Path | None:
        """The folder or file with a variant's own bytes (an adapter's for an adapter), or a reference's.

        Null where they are not on this machine: served elsewhere, or named on a hub and not downloaded.
        """
        if member in self.family.references:
            return self.reference_path(member)
        found = self.variant(member, variant)
        stated = found.adapter if found.weights is None else found.weights
        return None if stated is None or stated.startswith("hf://") else self.resolve(stated)

    def reference_path(self, name: str) -> Path | None:
        """Where a reference's weights lie, a bundle's at its root; null where they are not here."""
        reference = self.family.references.get(name)
        stated = None if reference is None else reference.weights or reference.bundle
        if stated is None or stated.startswith("hf://"):
            return None
        path = self.resolve(stated)
        return path if path.exists() else None

    def facts(self, member: str, variant: str) -> WeightsFacts | None:
        """What the headers of a variant's or a reference's weights say; null where they are not here.

        The parameters of an adapter's variant are its base's and its own. Raises WeightsError for broken
        weights.
        """
        path = self.weights_path(member, variant)
        if path is None:
            return None
        if path not in self._facts:
            try:
                self._facts[path] = describe(path)
            except WeightsError as error:
                self._facts[path] = error
        found = self._facts[path]
        if isinstance(found, WeightsError):
            raise found
        return self._with_base(member, variant, found)

    def _with_base(self, member: str, variant: str, found: WeightsFacts) -> WeightsFacts | None:
        if member in self.family.references or (on := self.variant(member, variant).on) is None:
            return found
        base = self.facts(member, on)
        if base is None:
            return None
        return WeightsFacts(
            format=base.format,
            architecture=base.architecture,
            parameters=base.parameters + found.parameters,
            context_length=base.context_length,
            dtype=base.dtype,
            quantised=base.quantised,
            license=found.license,
            name=found.name,
            files=found.files,
            has_chat_template=base.has_chat_template or found.has_chat_template,
            adapter=True,
        )


def served_variant(member: Member) -> str:
    """The id of the variant that the API serves: the one declared, else the first."""
    return member.serve.variant or member.variants[0].id


def load_family(path: Path) -> LoadedFamily:
    """Read and check a manifest.

    Raises DocumentError, `FILE:LINE: FIELD: what is wrong`, with the remedy as hint.
    """
    document = open_document(path, Family)
    loaded = LoadedFamily(document.value, path.parent, path)
    _check_names(document)
    for index, member in enumerate(document.value.members):
        _check_variants(document, loaded, member, f"members[{index}]")
        _check_serve(document, loaded, member, f"members[{index}]")
        _check_license(document, member.license, f"members[{index}].license")
    for where, component in _components(document.value):
        _check_component(document, loaded, component, where)
    _check_prices(document)
    _check_references(document, loaded)
    for index, policy in enumerate(document.value.policies):
        _check_file(document, loaded, policy, f"policies[{index}]")
    return loaded


def _check_names(document: Document[Family]) -> None:
    family = document.value
    seen: dict[str, str] = {}
    for index, member in enumerate(family.members):
        where = f"members[{index}].name"
        if member.name in seen:
            raise document.fault(
                where, f"{member.name} is also the name of {seen[member.name]}", hint="give it another"
            )
        if member.name in family.references:
            raise document.fault(
                where, f"{member.name} is also the name of a reference", hint="rename one of them"
            )
        seen[member.name] = f"members[{index}]"
    flagships = [index for index, member in enumerate(family.members) if member.role == "flagship"]
    if len(flagships) > 1:
        raise document.fault(
            f"members[{flagships[1]}].role", "a family has at most one flagship", hint="remove the other"
        )
    for name in family.references:
        if name in RESERVED:
            raise document.fault(
                f"references.{name}", f"{name} stands for the member with that role", hint="rename it"
            )
    for name in family.promises.price_cap:
        if name not in seen:
            raise document.fault(
                f"promises.price_cap.{name}", "no member has this name", hint=f"members: {', '.join(seen)}"
            )


def _check_variants(document: Document[Family], loaded: LoadedFamily, member: Member, where: str) -> None:
    by_id: dict[str, Variant] = {}
    for index, variant in enumerate(member.variants):
        here = f"{where}.variants[{index}]"
        if variant.id in by_id:
            raise document.fault(
                f"{here}.id", f"{variant.id} is also the id of another variant of {member.name}"
            )
        by_id[variant.id] = variant
        _check_variant(document, loaded, member, variant, here)
    for index, variant in enumerate(member.variants):
        for name in ("of", "on"):
            other = getattr(variant, name)
            here = f"{where}.variants[{index}].{name}"
            if other is not None and other not in by_id:
                raise document.fault(
                    here, f"{member.name} has no variant {other!r}", hint=f"variants: {', '.join(by_id)}"
                )
        _check_lineage(document, by_id, variant, f"{where}.variants[{index}]")


def _check_lineage(
    document: Document[Family], by_id: dict[str, Variant], variant: Variant, where: str
) -> None:
    at, steps = variant, 0
    while (parent := at.of or at.on) is not None:
        at, steps = by_id.get(parent, at), steps + 1
        if steps > len(by_id) or at is variant:
            raise document.fault(
                where, f"{variant.id} is derived from itself", hint="`of` and `on` name where it came from"
            )


def _check_variant(
    document: Document[Family], loaded: LoadedFamily, member: Member, variant: Variant, where: str
) -> None:
    if variant.weights is not None and variant.adapter is not None:
        raise document.fault(
            where, "a variant has weights or an adapter, not both", hint="make them two variants"
        )
    if (variant.adapter is None) != (variant.on is None):
        raise document.fault(
            where, "an adapter needs `on`, and `on` an adapter", hint="{id: tuned, adapter: ./ad, on: bf16}"
        )
    if variant.of is not None and variant.weights is None:
        raise document.fault(
            f"{where}.of", "only weights are derived `of` others", hint="an adapter lies `on` its base"
        )
    if variant.weights is None and variant.adapter is None and member.serve.target is None:
        raise document.fault(
            where, "the variant has no weights", hint="weights: FOLDER, or serve: {target: {url, model}}"
        )
    name = "weights" if variant.weights is not None else "adapter"
    stated = variant.weights if variant.weights is not None else variant.adapter
    if stated is None:
        return
    if stated.startswith("hf://"):
        if not _HUB.match(stated):
            raise document.fault(f"{where}.{name}", f"{stated!r} is not hf://ORG/NAME@REVISION")
    elif not (path := _resolved(document, loaded, stated, f"{where}.{name}")).exists():
        raise document.fault(
            f"{where}.{name}",
            f"there are no weights at {path}",
            hint="paths are relative to the manifest",
        )


def _check_serve(document: Document[Family], loaded: LoadedFamily, member: Member, where: str) -> None:
    serve, known = member.serve, [each.id for each in member.variants]
    if serve.variant is not None and serve.variant not in known:
        raise document.fault(
            f"{where}.serve.variant",
            f"{member.name} has no variant {serve.variant!r}",
            hint=f"variants: {', '.join(known)}",
        )
    for name in ("system_prompt", "guard"):
        stated = getattr(serve, name)
        if stated is not None:
            _check_file(document, loaded, stated, f"{where}.serve.{name}")
    if serve.system_prompt is not None:
        try:
            loaded.resolve(serve.system_prompt).read_text("utf-8")
        except UnicodeDecodeError as error:
            raise document.fault(f"{where}.serve.system_prompt", "the file is not UTF-8 text") from error
    if serve.target is not None and not re.match(r"^https?://[^/\s]+", serve.target.url):
        raise document.fault(
            f"{where}.serve.target.url", "expected http:// or https://", hint="https://host/v1"
        )


def _components(family: Family) -> Iterator[tuple[str, Component]]:
    for index, component in enumerate(family.components):
        yield f"components[{index}]", component
    for number, member in enumerate(family.members):
        for index, component in enumerate(member.components):
            yield f"members[{number}].components[{index}]", component


def _check_component(
    document: Document[Family], loaded: LoadedFamily, component: Component, where: str
) -> None:
    _check_license(document, component.license, f"{where}.license")
    if component.path is None:
        return
    path = _resolved(document, loaded, component.path, f"{where}.path")
    if not path.resolve().is_relative_to(
        loaded.folder.resolve()
    ):  # it is copied into a bundle under this path
        raise document.fault(
            f"{where}.path", "a component lies beside the manifest or below", hint="move or copy it there"
        )
    if not path.exists():
        raise document.fault(
            f"{where}.path", f"there is nothing at {path}", hint="paths are relative to the manifest"
        )


def _check_license(document: Document[Family], expression: str | None, where: str) -> None:
    if expression is None or (why := spdx.fault(expression)) is None:
        better = None if expression is None else spdx.suggestion(expression)
        if better is not None:
            raise document.fault(where, f"{expression!r} is not how SPDX spells it", hint=f"write {better}")
        return
    better = spdx.suggestion(expression)
    hint = (
        f"write {better}"
        if better
        else "an SPDX expression: Apache-2.0, or LicenseRef-NAME for one of your own"
    )
    raise document.fault(where, f"{expression!r} is no licence expression: {why}", hint=hint)


def _check_prices(document: Document[Family]) -> None:
    caps = document.value.promises.price_cap
    for index, member in enumerate(document.value.members):
        if member.price is not None:
            _check_price(document, member.price, f"members[{index}].price")
        if member.price is None or (cap := caps.get(member.name)) is None:
            continue
        for name in ("input", "output"):
            if getattr(member.price, name) > getattr(cap, name):
                raise document.fault(
                    f"members[{index}].price.{name}",
                    f"{getattr(member.price, name):g} is above the promised cap of {getattr(cap, name):g}",
                    hint=f"promises.price_cap.{member.name}",
                )
    for name, cap in caps.items():
        _check_price(document, cap, f"promises.price_cap.{name}")
    for name in ("notice_days", "successor_days"):
        days = getattr(document.value.promises, name)
        if days is not None and days < 0:
            raise document.fault(f"promises.{name}", f"expected days ≥ 0, got {days}")


def _check_price(document: Document[Family], price: Price, where: str) -> None:
    for name in ("input", "output"):
        if getattr(price, name) < 0:
            raise document.fault(
                f"{where}.{name}", f"expected USD per million tokens ≥ 0, got {getattr(price, name):g}"
            )


def _check_references(document: Document[Family], loaded: LoadedFamily) -> None:
    for name, reference in document.value.references.items():
        where = f"references.{name}"
        if (reference.weights is None) == (reference.bundle is None):
            raise document.fault(
                where, "a reference has weights or a bundle", hint="public: {weights: ./baseline}"
            )
        stated = reference.weights
        if stated is None or (stated.startswith("hf://") and _HUB.match(stated)):
            continue  # an old bundle may lie elsewhere: rules that need it are then inconclusive
        if stated.startswith("hf://") or not loaded.resolve(stated).exists():
            raise document.fault(
                f"{where}.weights",
                f"there are no weights at {stated}",
                hint="paths are relative to the manifest",
            )


def _resolved(document: Document[Family], loaded: LoadedFamily, stated: str, where: str) -> Path:
    try:
        return loaded.resolve(stated)
    except DocumentError as error:
        raise document.fault(where, error.message, hint=error.hint) from error


def _check_file(document: Document[Family], loaded: LoadedFamily, stated: str, where: str) -> None:
    path = _resolved(document, loaded, stated, where)
    if not path.is_file():
        raise document.fault(where, f"there is no file {path}", hint="paths are relative to the manifest")
