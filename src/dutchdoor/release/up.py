"""`up`: from a manifest to signed bundles and a running, keyed server, in one go.

Every step reuses what the last run left and still holds. A family of which nothing may leave, or nothing may be
served, still gets its decision.
"""

import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from dutchdoor.bundle.pack import NothingLeavesError
from dutchdoor.bundle.release import NotedShelf, decide_and_pack
from dutchdoor.bundle.verify import Report, verify
from dutchdoor.core import BundleError, DutchdoorError, EngineError, ThreatModel, Tier
from dutchdoor.engines.answer import ask
from dutchdoor.engines.http import HttpEngine
from dutchdoor.engines.interface import Answer, ChatRequest, Message
from dutchdoor.evidence.measures import Measure, difference
from dutchdoor.evidence.release_log import release_log
from dutchdoor.evidence.shelf import open_shelf
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.evidence.subjects import identify
from dutchdoor.family.load import LoadedFamily, served_variant
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.protocol.server import GatewayServer, listen
from dutchdoor.gateway.routing.build import build_from_family
from dutchdoor.gateway.routing.family import served_members
from dutchdoor.ledger.keys import NewKey
from dutchdoor.ledger.store import Ledger
from dutchdoor.policy.decide import decide
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.rules import LoadedPolicy
from dutchdoor.policy.shelf import Shelf
from dutchdoor.policy.timing import commit
from dutchdoor.vetting.bench import Tell
from dutchdoor.vetting.report import VetReport
from dutchdoor.vetting.suites import load_suite
from dutchdoor.vetting.vet import vet

KEY_NAME = "up"  # the key that `up` shows; the one before it is revoked, since it can't be shown again
GREETING = "What is 2 + 3?"  # where the policies have no skill suite to take a question from
GREETING_TOKENS = 48  # enough to see that a member answers

Say = Callable[[str], None]  # told the name of each step as it begins, and what packing has to note


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """An open member against the flagship on one skill: the member's rate minus the flagship's."""

    member: str
    skill: str
    measure: Measure


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """All that came out before anything is served."""

    report: VetReport
    decision: Decision
    bundles: tuple[Report, ...]  # as `verify` found them, after packing
    gaps: tuple[Gap, ...]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where things go: private data, bundles, and the address to listen on."""

    data: Path
    out: Path
    host: str
    port: int


async def walk(
    loaded: LoadedFamily,
    policies: Sequence[LoadedPolicy],
    place: Place,
    signer: SigningKey,
    trusted: Sequence[PublicKey],
    *,
    progress: Tell | None = None,
    say: Say = lambda step: None,
) -> Release:
    """Vet, decide, pack and check. Raises what a step raises; all that was finished before is kept."""
    listen(place.host, place.port).close()  # a port in use is better known before minutes of vetting
    store = EvidenceStore(place.data / "evidence")
    salts = Salts(place.data / "salts")
    subjects = await identify(loaded, salts, place.data / "cache")
    commit(release_log(place.data, loaded.family.family), policies, subjects, signer)
    say("vet")
    report = await vet(loaded, policies, store, signer, trusted=trusted, progress=progress)
    say("decide and pack")
    shelf = await open_shelf(store, loaded, trusted, salts=salts, cache=place.data / "cache")
    try:
        packing = await decide_and_pack(loaded, policies, place.data, place.out, signer, trusted, say=say)
        decision, paths = packing.decision, packing.paths
    except NothingLeavesError:
        decision, paths = decide(loaded, policies, NotedShelf(shelf), today()), ()
    say("check")
    bundles = [await verify(path, trusted) for path in paths]
    for bundle in bundles:
        if bundle.findings:
            raise BundleError(f"the bundle {bundle.folder} does not verify: {bundle.findings[0]}")
    gaps = tuple(compare_with_flagship(loaded, policies, decision, shelf))
    return Release(report=report, decision=decision, bundles=tuple(bundles), gaps=gaps)


def compare_with_flagship(
    loaded: LoadedFamily, policies: Sequence[LoadedPolicy], decision: Decision, shelf: Shelf
) -> list[Gap]:
    """Each open member against the flagship on every skill that both were measured on, from stored evidence."""
    flagship = loaded.flagship
    if flagship is None:
        return []
    found = []
    opened = [m for m in loaded.family.members if decision.members[m.name].tier is Tier.OPEN_WEIGHTS]
    for member in opened:
        if member.name == flagship.name:
            continue
        skills = {n: p.digests[n] for p in policies for n in p.policy.suites if n.startswith("skill.")}
        for skill, digest in sorted(skills.items()):
            pair = [
                shelf.find(each.name, served_variant(each), skill, digest, ThreatModel.GUARDED, None)
                or shelf.find(each.name, served_variant(each), skill, digest, ThreatModel.TAMPERED, None)
                for each in (member, flagship)
            ]
            if pair[0] is not None and pair[1] is not None:
                gap = difference(pair[0], pair[1], "correct")
                found.append(Gap(member=member.name, skill=skill.removeprefix("skill."), measure=gap))
    return found


@asynccontextmanager
async def serving(
    loaded: LoadedFamily, decision: Decision, place: Place
) -> AsyncIterator[tuple[GatewayServer[Gateway], NewKey]]:
    """The running server over the members whose API is open, with a fresh key for it."""
    if not served_members(loaded, decision):
        raise EngineError(
            "no member's API is open, so nothing is served", hint="`dutchdoor decide` shows why"
        )
    ledger = await Ledger.open_in(place.data)
    try:
        key = await fresh_key(ledger)
        gateway = await build_from_family(loaded, decision, place.data, ledger=ledger)
    except BaseException:
        await ledger.close()
        raise
    async with GatewayServer(gateway, place.host, place.port) as server:
        yield server, key


async def fresh_key(ledger: Ledger) -> NewKey:
    """A new key named `up`; the ones of earlier runs are revoked."""
    for old in await ledger.keys():
        if old.name == KEY_NAME and old.revoked is None:
            await ledger.revoke_key(old.id)
    return await ledger.create_key(KEY_NAME)


def greeting(policies: Sequence[LoadedPolicy]) -> str:
    """What each member is asked at the end: the first question of the policies' first skill suite."""
    for policy in policies:
        for suite in sorted(name for name in policy.policy.suites if name.startswith("skill.")):
            return load_suite(policy.suite_path(suite)).cases[0].conversation()[-1].content
    return GREETING


async def greet(base_url: str, model: str, key: str, question: str) -> Answer:
    """Ask a served member one question over HTTP, as any client would. Raises EngineError when it doesn't answer."""
    engine = HttpEngine(base_url, model, key)
    try:
        message = Message(role="user", content=question)
        return await ask(engine, ChatRequest(messages=(message,), max_tokens=GREETING_TOKENS))
    except DutchdoorError as error:
        raise EngineError(f"{model} does not answer at {base_url}: {error.message}") from error
    finally:
        await engine.close()


def today() -> datetime.date:
    """UTC, as everywhere."""
    return datetime.datetime.now(datetime.UTC).date()
