"""`dutchdoor keys` and `dutchdoor bill` without a server."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.fakes.postgres import Postgres, postgres
from tests.functional.server import dutchdoor

__all__ = ["postgres"]


def test_a_key_is_shown_once_and_listed_without_its_secret(tmp_path: Path) -> None:
    made = json.loads(
        dutchdoor(
            "keys",
            "create",
            "--name",
            "ann",
            "--budget",
            "1.5",
            "--per",
            "month",
            "--format",
            "json",
            cwd=tmp_path,
        ).stdout
    )
    assert re.fullmatch(r"dd-[\w-]{43}", made["key"]) and made["budget_nanodollars"] == 1_500_000_000
    listed = dutchdoor("keys", "list", "--format", "json", cwd=tmp_path)
    (row,) = json.loads(listed.stdout)
    assert row["id"] == made["id"] and row["per"] == "month" and row["revoked"] is None
    assert made["key"] not in listed.stdout
    shown = dutchdoor("keys", "list", cwd=tmp_path).stdout
    assert shown == f"{made['id']}  {made['prefix']}…  ann  spent 0.00 of 1.50 USD per month\n"


def test_the_key_alone_goes_to_stdout(tmp_path: Path) -> None:
    done = dutchdoor("keys", "create", "--name", "ann", "--data", "d", cwd=tmp_path)
    assert re.fullmatch(r"dd-[\w-]{43}\n", done.stdout) and "shown this once" in done.stderr
    assert (tmp_path / "d" / "ledger.sqlite3").exists()


def test_a_key_is_revoked_by_name(tmp_path: Path) -> None:
    dutchdoor("keys", "create", "--name", "ann", cwd=tmp_path)
    assert dutchdoor("keys", "revoke", "ann", cwd=tmp_path).returncode == 0
    assert "revoked 20" in dutchdoor("keys", "list", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("keys", "list"), 1, "there is no ledger"),
        (("bill",), 1, "there is no ledger"),
        (("bill", "--month", "2026-13"), 2, "is no month"),
        (("keys", "create", "--name", "a", "--budget", "lots"), 1, "no amount of money"),
        (("keys", "create", "--name", "a", "--budget", "-1"), 1, "no amount of money"),
        (("keys", "create", "--name", "a", "--per", "week"), 2, "week"),
        (("keys", "create", "--name", ""), 1, "no name for a key"),
        (("keys", "create"), 2, "--name"),
    ],
)
def test_what_cannot_be_meant_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = dutchdoor(*arguments, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_key_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    dutchdoor("keys", "create", "--name", "ann", cwd=tmp_path)
    done = dutchdoor("keys", "revoke", "bob", cwd=tmp_path)
    assert done.returncode == 1 and "hint: dutchdoor keys list" in done.stderr


def test_a_bill_of_nothing_is_a_bill(tmp_path: Path) -> None:
    dutchdoor("keys", "create", "--name", "ann", cwd=tmp_path)
    bill = json.loads(dutchdoor("bill", "--month", "2026-11", "--format", "json", cwd=tmp_path).stdout)
    assert bill == {"month": "2026-11", "lines": [], "interrupted": [], "total_nanodollars": 0}
    text = dutchdoor("bill", "--month", "2026-11", "--format", "csv", cwd=tmp_path).stdout
    assert text.splitlines() == [
        "state,key,model,target,requests,input_tokens,cached_tokens,output_tokens,nanodollars,alarms"
    ]


def test_a_key_is_rotated_and_keeps_what_it_is(tmp_path: Path) -> None:
    limits = ("--budget", "2", "--rpm", "60", "--tpm", "9000", "--team", "x", "--admin")
    made = json.loads(
        dutchdoor("keys", "create", "--name", "ann", *limits, "--format", "json", cwd=tmp_path).stdout
    )
    assert (made["rpm"], made["tpm"], made["team"], made["admin"]) == (60, 9000, "x", True)
    new = json.loads(dutchdoor("keys", "rotate", "ann", "--format", "json", cwd=tmp_path).stdout)
    assert new["key"] != made["key"] and new["prefix"] != made["prefix"]
    same = {"key", "prefix"}
    assert {k: v for k, v in new.items() if k not in same} == {k: v for k, v in made.items() if k not in same}
    dutchdoor("keys", "revoke", "ann", cwd=tmp_path)
    done = dutchdoor("keys", "rotate", "ann", cwd=tmp_path)
    assert done.returncode == 1 and "was revoked" in done.stderr


def test_limits_of_a_key_are_changed_and_taken_away(tmp_path: Path) -> None:
    dutchdoor("keys", "create", "--name", "ann", "--rpm", "60", cwd=tmp_path)
    done = dutchdoor("keys", "set", "ann", "--budget", "3", "--per", "day", "--no-rpm", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.endswith("(ann): 3.00 USD per day\n")
    (row,) = json.loads(dutchdoor("keys", "list", "--format", "json", cwd=tmp_path).stdout)
    assert (row["budget_nanodollars"], row["per"], row["rpm"]) == (3_000_000_000, "day", None)
    assert dutchdoor("keys", "set", "ann", "--no-budget", cwd=tmp_path).stdout.endswith("no budget\n")
    for wrong in ((), ("--rpm", "1", "--no-rpm")):
        assert dutchdoor("keys", "set", "ann", *wrong, cwd=tmp_path).returncode == 2
    assert dutchdoor("keys", "set", "ann", "--rpm", "0", cwd=tmp_path).returncode == 1


def test_teams_and_families_get_budgets(tmp_path: Path) -> None:
    dutchdoor("keys", "create", "--name", "ann", "--team", "x", cwd=tmp_path)
    done = dutchdoor("budgets", "set", "team:x", "--budget", "100", "--per", "month", cwd=tmp_path)
    assert done.stdout == "team:x  spent 0.00 and held 0.00 of 100.00 USD per month\n", done.stderr
    dutchdoor("budgets", "set", "family:gable", "--budget", "1", cwd=tmp_path)
    listed = json.loads(dutchdoor("budgets", "list", "--format", "json", cwd=tmp_path).stdout)
    assert [(row["account"], row["per"]) for row in listed] == [
        ("family:gable", "total"),
        ("team:x", "month"),
    ]
    assert dutchdoor("budgets", "remove", "team:x", cwd=tmp_path).returncode == 0
    assert "no budget for 'team:x'" in dutchdoor("budgets", "remove", "team:x", cwd=tmp_path).stderr
    wrong = dutchdoor("budgets", "set", "ann", "--budget", "1", cwd=tmp_path)
    assert wrong.returncode == 1 and "team:NAME or family:NAME" in wrong.stderr


def test_keys_and_budgets_live_in_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url()
    env = {**os.environ, "DUTCHDOOR_LEDGER": url}
    assert dutchdoor("keys", "create", "--name", "ann", cwd=tmp_path, env=env).returncode == 0
    assert "ann" in dutchdoor("keys", "list", "--ledger", url, cwd=tmp_path).stdout
    assert dutchdoor("budgets", "set", "team:x", "--budget", "1", cwd=tmp_path, env=env).returncode == 0
    assert not (tmp_path / ".dutchdoor" / "ledger.sqlite3").exists()
