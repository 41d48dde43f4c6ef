"""Everything that is not a model request, asked over real HTTP."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dutchdoor.core import LedgerError
from dutchdoor.gateway.app import Gateway
from dutchdoor.gateway.metrics import Metrics
from dutchdoor.gateway.operation import Operation
from dutchdoor.gateway.protocol.server import GatewayServer
from dutchdoor.gateway.routing.route import Route
from dutchdoor.gateway.targets.http import HttpTarget
from dutchdoor.ledger import Ledger, Price


@dataclass
class House:
    """A running gateway with a key and an admin's key."""

    gateway: Gateway
    ledger: Ledger
    key: str
    admin: str
    url: str
    http: aiohttp.ClientSession
    reloads: list[bool]

    async def ask(self, method: str, path: str, key: str | None = None, body: Any = None) -> tuple[int, Any]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with self.http.request(method, self.url + path, json=body, headers=headers) as response:
            text = await response.text()
            known = response.content_type == "application/json"
            return response.status, await response.json() if known and text else text


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    ledger = await Ledger.open_in(tmp_path)
    target = HttpTarget("t", "http://127.0.0.1:1/v1", "big", Price.per_million("1", "3"))
    metrics = Metrics()
    route = Route(model="m/1", targets=(target,), weights=(2.0,), retries=1)
    gateway = Gateway(ledger, [route], observers=[metrics])
    reloads: list[bool] = []
    gateway.operation = Operation(
        serving=tmp_path / "serving", reload=lambda: reloads.append(True), metrics=metrics.text
    )
    key = (await ledger.create_key("k")).key
    admin = (await ledger.create_key("a", admin=True)).key
    server = GatewayServer(gateway, port=0, drain_s=1)
    await server.start()
    async with aiohttp.ClientSession() as http:
        url = server.base_url.removesuffix("/v1")
        yield House(gateway, ledger, key, admin, url, http, reloads)
    await server.stop()


async def test_health_and_readiness_need_no_key(house: House) -> None:
    for path in ("/healthz", "/readyz"):
        assert await house.ask("GET", path) == (200, {"ok": True})
        assert (await house.ask("HEAD", path))[0] == 200


async def test_it_is_not_ready_while_it_ends_and_lives_nevertheless(house: House) -> None:
    house.gateway.draining = True
    assert await house.ask("GET", "/readyz") == (503, {"ok": False})
    assert (await house.ask("GET", "/healthz"))[0] == 200
    house.gateway.draining = False


async def test_it_is_not_ready_where_the_ledger_cannot_be_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(house.ledger, "change", refuse)
        assert await house.ask("GET", "/readyz") == (503, {"ok": False})
    assert (await house.ask("GET", "/readyz"))[
        0
    ] == 503  # the proof holds for a second: it is not asked again
    monkeypatch.setattr("dutchdoor.gateway.admin.PROVEN_S", 0.0)
    assert (await house.ask("GET", "/readyz"))[0] == 200


async def test_models_are_told_to_whoever_has_a_key(house: House) -> None:
    assert (await house.ask("GET", "/v1/models"))[0] == 401
    status, told = await house.ask("GET", "/v1/models", house.key)
    assert status == 200 and [each["id"] for each in told["data"]] == ["m/1"]
    assert (await house.ask("GET", "/v1/models/m/1", house.key))[1]["owned_by"] == "dutchdoor"
    status, told = await house.ask("GET", "/v1/models/held", house.key)
    assert status == 404 and told["error"]["code"] == "model_not_found"


async def test_an_unknown_path_and_a_wrong_method_are_errors_in_openais_form(house: House) -> None:
    status, told = await house.ask("GET", "/v1/nothing", house.key)
    assert status == 404 and told["error"]["code"] == "unknown_url"
    status, told = await house.ask("POST", "/v1/models", house.key, {})
    assert status == 405 and told["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"),
        ("GET", "/admin/routes"),
        ("PUT", "/admin/routes/m"),
        ("POST", "/admin/reload"),
        ("GET", "/admin/keys"),
        ("POST", "/admin/keys"),
        ("DELETE", "/admin/keys/x"),
        ("POST", "/admin/keys/x/rotate"),
    ],
)
async def test_the_admins_calls_need_an_admins_key(house: House, method: str, path: str) -> None:
    assert (await house.ask(method, path))[0] == 401
    status, told = await house.ask(method, path, house.key)
    assert status == 403 and told["error"]["code"] == "admin_key_required"
    assert house.reloads == []


async def test_an_admin_whose_key_was_revoked_is_none(house: House) -> None:
    assert (await house.ask("GET", "/admin/keys", house.admin))[0] == 200
    await house.ledger.revoke_key("a")
    assert (await house.ask("GET", "/admin/keys", house.admin))[0] == 401
    assert (await house.ask("GET", "/metrics", house.admin))[0] == 401


async def test_keys_are_made_listed_rotated_and_revoked(house: House) -> None:
    body = {"name": "bo", "budget": 1.5, "per": "month", "rpm": 10, "tpm": 1000, "team": "x"}
    status, made = await house.ask("POST", "/admin/keys", house.admin, body)
    assert status == 201 and made["key"].startswith("dd-") and made["budget"] == 1_500_000_000
    status, told = await house.ask("GET", "/admin/keys", house.admin)
    row = next(each for each in told["keys"] if each["id"] == made["id"])
    assert row["rpm"] == 10 and row["team"] == "x" and row["spent_nanodollars"] == 0 and "hash" not in row
    assert made["key"] not in str(told)
    status, rotated = await house.ask("POST", f"/admin/keys/{made['id']}/rotate", house.admin)
    assert status == 200 and rotated["id"] == made["id"] and rotated["key"] != made["key"]
    assert (await house.ask("GET", "/v1/models", made["key"]))[0] == 401
    assert (await house.ask("GET", "/v1/models", rotated["key"]))[0] == 200
    assert (await house.ask("DELETE", f"/admin/keys/{made['id']}", house.admin))[0] == 200
    assert (await house.ask("GET", "/v1/models", rotated["key"]))[0] == 401
    status, told = await house.ask("POST", f"/admin/keys/{made['id']}/rotate", house.admin)
    assert status == 400 and "was revoked" in told["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "a", "rpm": 0},
        {"name": "a", "budget": "lots"},
        {"name": "a", "budget": -1},
        {"name": "a", "per": "week"},
        {"name": "a", "nonsense": 1},
    ],
)
async def test_a_key_that_means_nothing_is_refused(house: House, body: dict[str, Any]) -> None:
    status, told = await house.ask("POST", "/admin/keys", house.admin, body)
    assert status == 400 and told["error"]["message"]


async def test_a_key_that_is_not_there_is_not_found_by_its_name(house: House) -> None:
    for id_ in ("key_nobody", "k"):
        assert (await house.ask("DELETE", f"/admin/keys/{id_}", house.admin))[0] == 404


async def test_routes_are_told_with_what_is_left_out(house: House) -> None:
    status, told = await house.ask("GET", "/admin/routes", house.admin)
    to = [{"target": "t", "weight": 2.0, "left_out": False}]
    route = {"route": "m/1", "to": to, "unpriced": "refuse", "retries": 1, "deadline_s": None}
    assert (status, told) == (200, {"routes": [route]})


async def test_routes_of_what_is_no_routes_file_cannot_be_set(house: House) -> None:
    status, told = await house.ask("PUT", "/admin/routes/m/1", house.admin, {"to": ["t"]})
    assert status == 409 and told["error"]["code"] == "conflict"


async def test_a_reload_is_asked_for(house: House) -> None:
    assert await house.ask("POST", "/admin/reload", house.admin) == (202, {"asked": True})
    assert house.reloads == [True]


async def test_metrics_are_told_while_the_ledger_cannot_be_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "dutchdoor_build_info" in (await house.ask("GET", "/metrics", house.admin))[1]

    async def refuse(*_: object, **__: object) -> None:
        raise LedgerError("the disk is gone")

    monkeypatch.setattr(house.ledger, "find_key", refuse)
    assert (await house.ask("GET", "/metrics", house.admin))[0] == 200
    status, told = await house.ask("GET", "/metrics", "dd-stranger")
    assert status == 503 and told["error"]["code"] == "unavailable"
    assert (await house.ask("GET", "/admin/keys", house.admin))[0] == 503


async def test_a_fault_is_told_in_openais_form_and_logged(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(house.ledger, "find_key", broken)
    with contextlib.suppress(aiohttp.ClientError):
        status, told = await house.ask("GET", "/v1/models", house.key)
        assert status == 500 and told["error"]["code"] == "fault"
    assert "ZeroDivisionError" in caplog.text
