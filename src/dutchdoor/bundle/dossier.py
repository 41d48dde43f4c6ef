"""What a bundle says of itself: the signed dossier, and the offer that is signed apart.

The dossier is an in-toto Statement v1 whose subjects are all other files by digest. It is accepted only in
canonical form. Types and their byte form; `dutchdoor.bundle.verify` compares them with a folder.
"""

import datetime
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from dutchdoor.core import BundleError, ThreatModel, canonical_json
from dutchdoor.evidence import dsse
from dutchdoor.evidence.record import Evidence
from dutchdoor.evidence.signing_keys import SigningKey
from dutchdoor.family.manifest import Price, Promises, Publisher
from dutchdoor.policy.decision import Decision
from dutchdoor.policy.grounds import Grounds

T = TypeVar("T", bound=msgspec.Struct)

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
STATEMENT_PAYLOAD = "application/vnd.in-toto+json"
PREDICATE_TYPE = "urn:dutchdoor:dossier:1"
OFFER_PAYLOAD = "application/vnd.dutchdoor.offer+json"


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen value that refuses fields it does not know."""


class Node(Row, frozen=True, kw_only=True):
    """One component in the family's tree: open with its digest, or closed with a commitment.

    `at` and `files` say where it lies, if it lies in this bundle: each file is at `at` + its name.
    """

    id: str  # member/kind/name
    member: str | None  # null: the family's
    kind: str
    variant: str | None = None
    license: str | None = None
    digest: str | None = None
    commitment: str | None = None
    closed_by: str | None = None
    because: str | None = None
    at: str | None = None
    files: tuple[str, ...] | None = None


class Tree(Row, frozen=True, kw_only=True):
    """All components of the release. The root is the same in each of its bundles."""

    root: str
    nodes: tuple[Node, ...]


class SignedEvidence(Row, frozen=True, kw_only=True):
    """Outcomes with their maker's signature: `dsse.sign` over the canonical evidence gives `sig` again."""

    evidence: Evidence
    keyid: str
    sig: str  # base64


class Dossier(Row, frozen=True, kw_only=True):
    """The predicate: what this bundle is, what was decided for the whole family, and from what evidence."""

    kind: Literal["dutchdoor/dossier@1"] = "dutchdoor/dossier@1"
    family: str
    version: str
    member: str | None  # null: the components of the whole family
    publisher: Publisher
    license: str | None
    tree: Tree
    decision: Decision
    evidence: tuple[SignedEvidence, ...]
    grounds: Grounds | UnsetType = UNSET  # dossiers of earlier versions have none, and can't be recomputed
    apart: tuple[str, ...]  # files that belong here and are signed on their own
    made_at: str  # RFC 3339, UTC
    made_by: str


class Subject(Row, frozen=True, kw_only=True):
    """A file of the bundle: its relative name and its digests in hex."""

    name: str
    digest: dict[str, str]


class Statement(Row, frozen=True, kw_only=True, rename={"type_": "_type", "predicate_type": "predicateType"}):
    """in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md)."""

    type_: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
    subject: tuple[Subject, ...]
    predicate_type: Literal["urn:dutchdoor:dossier:1"] = "urn:dutchdoor:dossier:1"
    predicate: Dossier


class Offer(Row, frozen=True, kw_only=True):
    """Price and promises of one member of one version, as of a day. USD per million tokens."""

    kind: Literal["dutchdoor/offer@1"] = "dutchdoor/offer@1"
    family: str
    version: str
    member: str
    root: str  # of the release it belongs to
    price: Price | None
    promises: Promises
    made_at: str  # RFC 3339, UTC


def is_about(evidence: Evidence, member: str, variant: str, *, elsewhere: bool) -> bool:
    """Whether evidence is about the bytes of a variant.

    Where the API reaches a member `elsewhere`, at a URL, what is measured through it is about that service.
    """
    subject = evidence.subject
    served = elsewhere and evidence.conditions.threat is ThreatModel.GUARDED
    return (subject.member, subject.variant) == (member, variant) and not served


def statement(dossier: Dossier, digests: Mapping[str, str]) -> Statement:
    """The statement over `{file: "sha256:…"}`, subjects in the order of their names."""
    subjects = []
    for name in sorted(digests):
        algorithm, _, value = digests[name].partition(":")
        subjects.append(Subject(name=name, digest={algorithm: value}))
    return Statement(subject=tuple(subjects), predicate=dossier)


def signed_statement(value: Statement, signer: SigningKey) -> bytes:
    """The bytes of `dossier.json`."""
    return dsse.sign(_stable(value), STATEMENT_PAYLOAD, signer)


def signed_offer(offer: Offer, signer: SigningKey) -> bytes:
    """The bytes of `offer.json`."""
    return dsse.sign(_stable(offer), OFFER_PAYLOAD, signer)


def read_statement(payload: bytes) -> Statement:
    """Raises BundleError unless the payload is a dossier in canonical form."""
    return _read(payload, Statement, "dossier")


def read_offer(payload: bytes) -> Offer:
    """Raises BundleError unless the payload is an offer in canonical form."""
    return _read(payload, Offer, "offer")


def now() -> str:
    """This second in RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stable(value: msgspec.Struct) -> bytes:
    """Canonical bytes that a reader gets again from its own parse (not so with an int in a float's place)."""
    parsed = msgspec.json.decode(canonical_json(value), type=type(value))
    return canonical_json(parsed)


def _read(payload: bytes, type_: type[T], what: str) -> T:
    try:
        parsed = msgspec.json.decode(payload, type=type_)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(f"the signed {what} is not what this version reads: {error}") from error
    if canonical_json(parsed) != payload:
        raise BundleError(f"the signed {what} is not in canonical form")
    return parsed
