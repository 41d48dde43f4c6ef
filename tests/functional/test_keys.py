"""`dutchdoor keys` and `dutchdoor bill` without a server."""

import json
import re
from pathlib import Path

import pytest

from tests.functional.server import dutchdoor


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
