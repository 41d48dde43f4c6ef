"""What a family is made of: members, variants, components, intents.

The types of `family.yaml` and their checks. Decides nothing: see `dutchdoor.policy`.
"""

import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Name = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")
]  # a path segment and a model name at once

ReasonKind = Literal["commercial", "legal", "safety", "privacy", "security", "other"]

ComponentKind = Literal[
    # the 17 kinds of the Model Openness Framework 1.0
    "model-architecture",
    "model-parameters-final",
    "model-parameters-intermediate",
    "evaluation-results",
    "evaluation-code",
    "evaluation-data",
    "model-card",
    "data-card",
    "technical-report",
    "research-paper",
    "sample-model-outputs",
    "training-code",
    "inference-code",
    "data-preprocessing-code",
    "supporting-libraries-and-tools",
    "datasets",
    "model-metadata",
    # and what a family has besides
    "tokenizer",
    "chat-template",
    "alignment-adapter",
    "safety-tooling",
    "system-prompt",
]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A frozen value that refuses fields it does not know."""


class Publisher(Row, frozen=True, kw_only=True):
    name: str
    contact: str | None = None


class Because(Row, frozen=True, kw_only=True):
    """Why something is closed by choice, in words a person reads."""

    kind: ReasonKind
    text: str


class Price(Row, frozen=True, kw_only=True):
    """USD per million tokens."""

    input: float
    output: float


class Target(Row, frozen=True, kw_only=True):
    """A member that is served elsewhere.

    An OpenAI-dialect URL, the model's name there, and the variable with its key.
    """

    url: str
    model: str
    key_env: str | None = None


class Variant(Row, frozen=True, kw_only=True):
    """One set of bytes of a member: weights of its own, or an adapter on another variant."""

    id: Name
    weights: str | None = None  # a folder, a .gguf file, or hf://org/name@revision
    of: Name | None = None  # the variant this one was derived from (quantised, converted)
    adapter: str | None = None
    on: Name | None = None


class Intent(Row, frozen=True, kw_only=True):
    """What the publisher wants of each channel; it can only close."""

    download: bool = True
    api: bool = True
    because: Because | None = None
    download_after: datetime.date | None = None


class Serve(Row, frozen=True, kw_only=True):
    """The configuration in which the API serves a member.

    Files named here are closed unless listed as open.
    """

    variant: Name | None = None
    system_prompt: str | None = None
    guard: str | None = None
    target: Target | None = None


class Component(Row, frozen=True, kw_only=True):
    kind: ComponentKind
    path: str | None = None
    license: str | None = None  # an SPDX expression
    intent: Literal["open", "closed"] = "open"
    because: Because | None = None


class Member(Row, frozen=True, kw_only=True):
    name: Name
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]
    license: str | None = None  # an SPDX expression
    role: Literal["flagship"] | None = None
    intent: Intent = Intent()
    serve: Serve = Serve()
    components: tuple[Component, ...] = ()
    price: Price | None = None


class Reference(Row, frozen=True, kw_only=True):
    """A model that rules compare with: already public weights, or the bundle of an earlier version."""

    weights: str | None = None
    bundle: str | None = None


class Promises(Row, frozen=True, kw_only=True):
    notice_days: int | None = None
    price_cap: dict[Name, Price] = {}
    successor_days: int | None = None


class Supersedes(Row, frozen=True, kw_only=True):
    version: str
    manifest: str


class Family(Row, frozen=True, kw_only=True):
    """A whole manifest. Paths in it are relative to the manifest's folder."""

    kind: Literal["dutchdoor/family@1"]
    family: Name
    version: str
    publisher: Publisher
    members: Annotated[tuple[Member, ...], Meta(min_length=1)]
    policies: tuple[str, ...] = ()
    references: dict[Name, Reference] = {}
    components: tuple[Component, ...] = ()
    promises: Promises = Promises()
    supersedes: Supersedes | None = None
