"""From an address to a candidate: its facts, how to open it, and how a routes file names it.

A bundle is verified before anything in it is used. Opens no engine by itself and asks no question: a
candidate is opened when its turn comes, so that two large models need not fit into memory at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

import msgspec

from dutchdoor.bundle.store import admit, default_store
from dutchdoor.bundle.verify import Report as BundleReport
from dutchdoor.core import BundleError, UsageError
from dutchdoor.drill.addresses import AnyAddress, BundleAddress, MemberAddress, UrlAddress, WeightsAddress
from dutchdoor.drill.cost import price
from dutchdoor.drill.remote import Remote, remote
from dutchdoor.drill.report import Price
from dutchdoor.drill.routes import Target
from dutchdoor.engines.interface import Engine
from dutchdoor.evidence.signing_keys import PublicKey
from dutchdoor.family.draft import license_of_text
from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.family.manifest import Member
from dutchdoor.family.weights import WeightsFacts, describe
from dutchdoor.vetting.runner import BelowGuard

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a person may say about one side besides its address."""

    letter: Literal["a", "b"]
    key_env: str | None = None
    price: Price | None = None


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where things lie, who is trusted, and how many requests an engine will get at a time."""

    data: Path
    trusted: tuple[PublicKey, ...]
    streams: int


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One side before it is asked."""

    address: str
    kind: Literal["folder", "gguf", "bundle", "member", "url"]
    name: str
    open: Callable[[], Awaitable[Engine]]
    target: Target
    license: str | None = None
    license_source: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    as_served: str | None = None
    price: Price | None = None
    signer: str | None = None
    notes: tuple[str, ...] = ()
    key_hint: str | None = None  # which key was sent, where its server refuses us


async def prepare(address: AnyAddress, options: Options, place: Place) -> Candidate:
    """What can be known of an address before it is asked anything.

    Raises UsageError for an address that can't be meant, WeightsError, BundleError or DocumentError for what
    is broken.
    """
    match address:
        case WeightsAddress():
            return await _weights(address, options, place)
        case BundleAddress():
            return await _bundle(address, options, place)
        case MemberAddress():
            return await _member(address, options, place)
        case UrlAddress():
            return await _url(address, options)


async def _weights(address: WeightsAddress, options: Options, place: Place) -> Candidate:
    facts = await asyncio.to_thread(describe, address.path)
    licence, source, notes = await asyncio.to_thread(_identified, address.path, facts)
    return Candidate(
        address=address.text,
        kind="folder" if address.path.is_dir() else "gguf",
        name=address.path.resolve().stem if address.path.is_file() else address.path.resolve().name,
        open=_opener(address.path, place),
        target={"weights": str(address.path.resolve())},
        license=licence,
        license_source=source,
        parameters=facts.parameters,
        context_length=facts.context_length,
        price=options.price,
        notes=notes,
    )


def _identified(path: Path, facts: WeightsFacts) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The licence, who says so, and a note where two places disagree."""
    if path.is_file():
        return facts.license, "its metadata" if facts.license else None, ()
    text = license_of_text(path)
    if facts.license and text and facts.license != text:
        note = f"its README says {facts.license}, its licence file is the text of {text}: ask its publisher"
        return facts.license, "its README", (note,)
    if facts.license or text:
        return facts.license or text, "its README" if facts.license else "its licence file", ()
    held = any((path / name).is_file() for name in LICENCE_FILES)
    return None, "read its licence file" if held else None, ()


def _opener(path: Path, place: Place) -> Callable[[], Awaitable[Engine]]:
    async def opened() -> Engine:
        from dutchdoor.engines.load import open_engine

        return BelowGuard(await open_engine(path, parallel=place.streams, cache=place.data / "cache"))

    return opened


async def _bundle(address: BundleAddress, options: Options, place: Place) -> Candidate:
    """A bundle as its dossier says; what is loaded is the verified copy."""
    admitted = await admit(address.path, place.trusted, default_store())
    report = admitted.report
    if admitted.path is None or report.dossier is None:
        found = "; ".join(f"{finding.file}: {finding.what}" for finding in report.findings[:3])
        raise BundleError(
            f"{address.text} is not what its dossier says: {found}",
            hint=f"dutchdoor verify {address.text} says all; get the bundle again from its publisher",
        )
    weights = _root_weights(admitted.path)
    facts = await asyncio.to_thread(describe, weights)
    return Candidate(
        address=address.text,
        kind="bundle",
        name=report.dossier.member or address.path.resolve().name,
        open=_opener(weights, place),
        target={"bundle": str(address.path.resolve())},
        license=report.dossier.license,
        license_source="its dossier",
        parameters=facts.parameters,
        context_length=facts.context_length,
        price=options.price or _offered(report),
        signer=report.signer,
        notes=_signed(address, report),
    )


def _root_weights(folder: Path) -> Path:
    """The first variant lies at the root: a Hugging Face folder, or one GGUF file."""
    ggufs = sorted(folder.glob("*.gguf"))
    return ggufs[0] if ggufs and not (folder / "config.json").exists() else folder


def _offered(report: BundleReport) -> Price | None:
    offered = None if report.offer is None else report.offer.price
    return None if offered is None else price(offered.input, offered.output, "offer")


def _signed(address: BundleAddress, report: BundleReport) -> tuple[str, ...]:
    if report.trusted:
        return ()
    return (
        f"the bundle holds together, but nobody you trust signed it: {report.signer}. "
        f"`dutchdoor signing-keys trust` makes a key trusted.",
    )


async def _member(address: MemberAddress, options: Options, place: Place) -> Candidate:
    """A member as its manifest says it is served: with its system prompt and guard, or elsewhere."""
    loaded = await asyncio.to_thread(load_family, address.manifest)
    member = _named(loaded, address)
    serve = member.serve
    found: Remote | None = None
    if serve.target is not None:
        found = await remote(
            serve.target.url, serve.target.model, options.key_env or serve.target.key_env, options.letter
        )
        inner, facts = found.open, None
    else:
        weights = loaded.resolve(_weights_of(member, address))
        facts = await asyncio.to_thread(describe, weights)
        inner = _opener(weights, place)
    family_price = None if member.price is None else price(member.price.input, member.price.output, "family")
    return Candidate(
        address=address.text,
        kind="member",
        name=member.name,
        open=_served(inner, loaded, member),
        target={"family": str(address.manifest.resolve()), "member": member.name},
        license=member.license,
        license_source=None if member.license is None else "its manifest",
        parameters=facts.parameters if facts else None,
        context_length=facts.context_length if facts else found.context_length if found else None,
        as_served=_stands_between(member),
        price=options.price or family_price,
        key_hint=found.key_hint if found else None,
    )


def _named(loaded: LoadedFamily, address: MemberAddress) -> Member:
    members = {member.name: member for member in loaded.family.members}
    if address.member not in members:
        names = ", ".join(members)
        raise UsageError(
            f"{address.manifest} has no member {address.member!r}", hint=f"its members are {names}"
        )
    return members[address.member]


def _weights_of(member: Member, address: MemberAddress) -> str:
    """The weights of the variant that is served, by default the first."""
    variants = {variant.id: variant for variant in member.variants}
    variant = variants[member.serve.variant] if member.serve.variant else member.variants[0]
    if variant.weights is None:
        raise UsageError(
            f"{address.text} is served as the adapter {variant.id!r}, which compare can't load by itself",
            hint="serve the family and compare URL#MEMBER, or merge the adapter",
        )
    return variant.weights


def _stands_between(member: Member) -> str | None:
    parts = [
        name
        for name, value in (("system prompt", member.serve.system_prompt), ("guard", member.serve.guard))
        if value
    ]
    return " and ".join(parts) or None


def _served(
    inner: Callable[[], Awaitable[Engine]], loaded: LoadedFamily, member: Member
) -> Callable[[], Awaitable[Engine]]:
    async def opened() -> Engine:
        from dutchdoor.engines.guard import guarded, load_guard

        serve = member.serve
        prompt = loaded.resolve(serve.system_prompt).read_text("utf-8") if serve.system_prompt else None
        guard = load_guard(loaded.resolve(serve.guard)) if serve.guard else None
        engine = await inner()
        return engine if prompt is None and guard is None else guarded(engine, prompt, guard)

    return opened


async def _url(address: UrlAddress, options: Options) -> Candidate:
    found = await remote(address.url, address.model, options.key_env, options.letter)
    return Candidate(
        address=address.text,
        kind="url",
        name=address.model,
        open=found.open,
        target=found.target,
        license=found.license,
        license_source=None if found.license is None else "its server",
        parameters=found.parameters,
        context_length=found.context_length,
        price=options.price or found.price,
        key_hint=found.key_hint,
    )
