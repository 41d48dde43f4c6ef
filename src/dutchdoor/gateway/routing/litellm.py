"""A LiteLLM `config.yaml` as routes of ours, and what of it was not taken over, each with its reason.

Reads model list, prices, keys by environment, weights, order, aliases, fallbacks, retries and timeouts. A field
that is not known here is left out and said; nothing is guessed. Keys that stand in the file stay in memory.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, LedgerError
from dutchdoor.engines.providers import PROVIDERS
from dutchdoor.gateway.routing.file import (
    LONGEST_S,
    MOST_RETRIES,
    LoadedRoutes,
    PriceRow,
    RoutePlan,
    TargetRow,
)
from dutchdoor.gateway.routing.kinds import read_bytes, read_yaml
from dutchdoor.gateway.routing.litellm_words import (
    ABILITIES,
    COMPATIBLE,
    DEFAULT_BASE,
    KNOWN,
    MODES,
    NOT_REACHED,
    PROVIDERS_HERE,
    SERVED_AT_V1,
    why_not,
)
from dutchdoor.ledger.prices import pico_dollars

ENVIRONMENT = "os.environ/"
BARE = (  # names that LiteLLM takes without a provider in front
    (re.compile(r"gpt-|o[1-9](-|$)|chatgpt-|text-embedding-|davinci|babbage"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
)
Environment = Mapping[str, str]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a LiteLLM config that means nothing here, and why."""

    where: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was made of a LiteLLM config. `open_keys` are the places of keys that stand in it; they are used,
    and a variable would be the better place.
    """

    routes: LoadedRoutes
    left_out: tuple[LeftOut, ...]
    open_keys: tuple[str, ...] = ()


class _Deployment(msgspec.Struct, frozen=True):
    model_name: str
    litellm_params: dict[str, Any]
    model_info: dict[str, Any] | None = None


class _Config(msgspec.Struct, frozen=True):
    model_list: list[_Deployment]
    router_settings: dict[str, Any] | None = None
    litellm_settings: dict[str, Any] | None = None
    general_settings: dict[str, Any] | None = None
    environment_variables: dict[str, Any] | None = None


def load_litellm(path: Path, environ: Environment = os.environ) -> Imported:
    """Read a LiteLLM config; raises DocumentError where nothing of it can be served."""
    value = read_yaml(read_bytes(path), path)
    try:
        config = msgspec.convert(value, _Config)
    except msgspec.ValidationError as error:
        raise DocumentError(f"{path}: {error}", hint="is it LiteLLM's config.yaml?") from error
    reading = _Reading(config, environ)
    for name in sorted(set(value) - set(_Config.__struct_fields__)):
        reading.leave(name, why_not(name))
    plans = tuple(reading.plans())
    if not plans:
        why = f": {reading.left[0].where}: {reading.left[0].why}" if reading.left else ""
        raise DocumentError(f"{path}: no model of it can be served here{why}")
    used = {name for plan in plans for name in plan.to}
    return Imported(
        routes=LoadedRoutes(
            path=path,
            targets={name: row for name, row in reading.targets.items() if name in used},
            routes=plans,
            keys={name: key for name, key in reading.keys.items() if name in used},
        ),
        left_out=tuple(reading.left),
        open_keys=tuple(reading.open_keys),
    )


def read_litellm(path: Path) -> LoadedRoutes:
    """Only the routes, for a server that reads the file again."""
    return load_litellm(path).routes


@dataclass(frozen=True)
class _Place:
    """A target in its group: how it is drawn there."""

    target: str
    order: float | None
    weights: tuple[float | None, ...]  # by weight, rpm, tpm


class _Reading:
    """One config on its way into routes."""

    def __init__(self, config: _Config, environ: Environment) -> None:
        self.left: list[LeftOut] = []
        self.open_keys: list[str] = []
        self.targets: dict[str, TargetRow] = {}
        self.keys: dict[str, str] = {}
        self._environ = environ
        self._config = config
        self._router = dict(config.router_settings or {})
        self._library = dict(config.litellm_settings or {})
        self._groups: dict[str, list[_Place]] = {}

    def leave(self, where: str, why: str) -> None:
        self.left.append(LeftOut(where=where, why=why))

    def plans(self) -> Iterator[RoutePlan]:
        """The routes, in the order of the model list; notes on the way what is left out."""
        for index, deployment in enumerate(self._config.model_list):
            self._deployment(f"model_list[{index}]", deployment)
        self._settings_left_out()
        retries, deadline = self._retries(), self._deadline()
        fallbacks = self._fallbacks()
        found: dict[str, RoutePlan] = {}
        for name in self._groups:
            to, weights = self._drawn(name, fallbacks.get(name, fallbacks.get("*", [])))
            # LiteLLM serves what has no price, so these routes do: shown as unknown, never as 0
            found[name] = RoutePlan(
                model=name, to=to, weights=weights, unpriced=True, retries=retries, deadline_s=deadline
            )
        for alias, stated in dict(self._router.get("model_group_alias") or {}).items():
            meant = stated.get("model") if isinstance(stated, dict) else stated
            if meant in found:
                found[str(alias)] = msgspec.structs.replace(found[meant], model=str(alias))
            else:
                where = f"router_settings.model_group_alias.{alias}"
                self.leave(where, f"there is no model {str(meant)[:80]!r} that was taken over")
        yield from found.values()

    # -- targets

    def _deployment(self, where: str, stated: _Deployment) -> None:
        params = {name: self._resolved(each) for name, each in stated.litellm_params.items()}
        model = params.get("model")
        if not isinstance(model, str):
            return self.leave(f"{where}.litellm_params.model", "it is missing, or not in the environment")
        if "*" in stated.model_name or "*" in model:
            why = "a name with * stands for many models: list those that you serve, each with its name"
            return self.leave(f"{where} ({stated.model_name})", why)
        for field in ("api_base", "base_url"):
            # without it, its provider's own address would be asked, with a key that is meant for another
            if field in params and not params[field]:
                return self.leave(f"{where}.litellm_params.{field}", "the environment does not hold it")
        place = self._address(params, model)
        if isinstance(place, str):
            return self.leave(f"{where} ({stated.model_name}: {model})", place)
        group = self._groups.setdefault(stated.model_name, [])
        name = self._name(stated.model_name)
        info = stated.model_info or {}
        price = self._price(where, params, info)
        timeout = _seconds(params.get("timeout"))
        if timeout is not None and place.provider is not None and PROVIDERS[place.provider].adapter:
            self.leave(f"{where}.litellm_params.timeout", "an adapter has none: the route's deadline holds")
            timeout = None
        self.targets[name] = msgspec.structs.replace(place, price=price, can=_can(info), timeout_s=timeout)
        self._key(where, name, stated.litellm_params.get("api_key"))
        weights = tuple(_number(params.get(each)) for each in ("weight", "rpm", "tpm"))
        group.append(_Place(name, _number(params.get("order")), weights))
        for field in sorted(set(params) - KNOWN["litellm_params"]):
            self.leave(f"{where}.litellm_params.{field}", why_not(field))
        for field in sorted(set(params) & {"rpm", "tpm"}):
            self.leave(f"{where}.litellm_params.{field}", "it weighs the targets; it limits none of them")
        for field in sorted(set(info) - KNOWN["model_info"] - set(ABILITIES)):
            self.leave(f"{where}.model_info.{field}", why_not(field))

    def _resolved(self, value: Any) -> Any:
        """A value, or what the environment holds for it; null where that is empty."""
        if isinstance(value, str) and value.startswith(ENVIRONMENT):
            return self._environ.get(value.removeprefix(ENVIRONMENT))
        return value

    def _address(self, params: Mapping[str, Any], model: str) -> TargetRow | str:
        """Where a model is served, or why that is not known here."""
        provider, name = _split(model, params.get("custom_llm_provider"))
        base = params.get("api_base") or params.get("base_url")
        if provider in NOT_REACHED:
            return NOT_REACHED[provider]
        ours = PROVIDERS_HERE.get(provider)
        if base is None and ours is not None and provider not in DEFAULT_BASE:
            return TargetRow(provider=ours, model=name)
        if ours in ("anthropic", "gemini"):
            return f"{ours} at an address of its own is not reached through the adapter"
        if ours is None and provider not in COMPATIBLE:
            return f"no way to {provider!r} is known here"
        base = base or DEFAULT_BASE.get(provider)
        if not isinstance(base, str) or not base.startswith(("http://", "https://")):
            return f"no address of {provider!r} is known here: give its api_base"
        url = base.rstrip("/")
        if provider in SERVED_AT_V1 and url.count("/") == 2:  # only a host: these serve the dialect at /v1
            url += "/v1"
        if ours is not None and url == PROVIDERS[ours].base_url:
            return TargetRow(provider=ours, model=name)
        return TargetRow(url=url, model=name)

    def _name(self, model: str) -> str:
        """A name for one more target of a model."""
        if sum(each.model_name == model for each in self._config.model_list) == 1 and (
            model not in self.targets
        ):
            return model
        number = 1
        while f"{model}-{number}" in self.targets:
            number += 1
        return f"{model}-{number}"

    def _key(self, where: str, name: str, stated: Any) -> None:
        if not isinstance(stated, str) or not stated:
            return
        if stated.startswith(ENVIRONMENT):
            variable = stated.removeprefix(ENVIRONMENT)
            self.targets[name] = msgspec.structs.replace(self.targets[name], key_env=variable)
            return
        self.keys[name] = stated
        self.open_keys.append(f"{where}.litellm_params.api_key")

    def _price(self, where: str, params: Mapping[str, Any], info: Mapping[str, Any]) -> PriceRow | None:
        """USD per million tokens of a price in USD a token."""
        names = {"input": "input_cost_per_token", "output": "output_cost_per_token"}
        names |= {"cached_input": "cache_read_input_token_cost"}
        found: dict[str, float] = {}
        for ours, theirs in names.items():
            stated = params.get(theirs, info.get(theirs))
            if stated is None:
                continue
            try:
                amount = Decimal(str(stated)) * 1_000_000
                pico_dollars(amount)
            except (ArithmeticError, LedgerError):
                self.leave(f"{where}.{theirs}", "it is no price of whole pico-dollars a token")
                return None
            found[ours] = float(amount)
        if "input" in found and "output" in found:
            return PriceRow(**found)
        if found:
            self.leave(f"{where}.{names[next(iter(found))]}", "a price has both input and output")
        return None

    # -- routes

    def _drawn(self, name: str, behind: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
        """The targets of a group and those behind it, in order or with weights."""
        group = self._groups[name]
        stand_in = [each.target for other in behind for each in self._groups.get(other, ())]
        own = [each.target for each in group]
        stand_in = [each for each in dict.fromkeys(stand_in) if each not in own]
        if any(each.order is not None for each in group):
            placed = sorted(group, key=lambda each: float("inf") if each.order is None else each.order)
            return (*(each.target for each in placed), *stand_in), None
        if len(group) == 1:
            return (*own, *stand_in), None
        weights = [1.0] * len(group)
        for column in range(3):
            stated = [each.weights[column] or 0.0 for each in group]
            if any(stated):
                weights = stated
                break
        return (*own, *stand_in), (*weights, *(0.0 for _ in stand_in))

    def _fallbacks(self) -> dict[str, list[str]]:
        """Groups behind each group; under `*` those behind all others."""
        found: dict[str, list[str]] = {}
        for section, settings in (("router_settings", self._router), ("litellm_settings", self._library)):
            for index, row in enumerate(settings.get("fallbacks") or []):
                for name, behind in dict(row).items() if isinstance(row, dict) else ():
                    where = f"{section}.fallbacks[{index}].{name}"
                    found.setdefault(str(name), self._there(where, behind))
            if behind := settings.get("default_fallbacks"):
                found.setdefault("*", self._there(f"{section}.default_fallbacks", behind))
        return found

    def _there(self, where: str, names: Any) -> list[str]:
        found = []
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, str) and name in self._groups:
                found.append(name)
            else:
                self.leave(where, f"there is no model {str(name)[:80]!r} that was taken over")
        return found

    def _retries(self) -> int | None:
        stated = self._router.get("num_retries", self._library.get("num_retries"))
        return min(stated, MOST_RETRIES) if type(stated) is int and stated >= 0 else None

    def _deadline(self) -> float | None:
        return _seconds(self._router.get("timeout", self._library.get("request_timeout")))

    def _settings_left_out(self) -> None:
        sections = {
            "router_settings": self._router,
            "litellm_settings": self._library,
            "general_settings": self._config.general_settings or {},
            "environment_variables": self._config.environment_variables or {},
        }
        for section, settings in sections.items():
            for field in sorted(set(map(str, settings)) - KNOWN.get(section, frozenset())):
                why = "set it in the environment" if section == "environment_variables" else why_not(field)
                self.leave(f"{section}.{field}", why)
        strategy = self._router.get("routing_strategy", "simple-shuffle")
        if strategy != "simple-shuffle":
            self.leave("router_settings.routing_strategy", f"{strategy}: targets are drawn by weight instead")


def _split(model: str, stated: Any) -> tuple[str, str]:
    """A LiteLLM model's provider and its name there."""
    first, slash, rest = model.partition("/")
    known = first in PROVIDERS_HERE or first in COMPATIBLE or first in NOT_REACHED
    if isinstance(stated, str):
        return stated, rest if slash and first == stated else model
    if slash and known:
        return first, rest
    bare = next((provider for form, provider in BARE if form.match(model)), None)
    return (bare, model) if bare else (first, rest or model)


def _can(info: Mapping[str, Any]) -> dict[str, bool | int]:
    found: dict[str, bool | int] = {
        ours: bool(info[theirs]) for theirs, ours in ABILITIES.items() if isinstance(info.get(theirs), bool)
    }
    most = info.get("max_output_tokens")
    if type(most) is int and most > 0:
        found["max_output"] = most
    return found | MODES.get(str(info.get("mode")), {})


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None


def _seconds(value: Any) -> float | None:
    number = _number(value)
    return min(number, LONGEST_S) if number else None
