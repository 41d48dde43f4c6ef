"""Every `console` block of README and docs runs, and prints what the page says where that is stable.

In a block, `$ ` begins a command, the lines below it are what it prints. `…` stands for any text within a line, and a
line that is only `…` for any lines. All blocks of a page run in one shell, from the top of a checkout.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.functional.conftest import TOP, environment

BLOCK = re.compile(r"^```console\n(.*?)^```", re.M | re.S)
PAGES = sorted(p for p in [TOP / "README.md", *(TOP / "docs").rglob("*.md")] if BLOCK.search(p.read_text()))
END = "\x1eend-of-command"


class Step:
    """A command with the lines that the page says it prints."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.expected: list[str] = []


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for block in BLOCK.findall(page):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            elif line.startswith("> ") and found and not found[-1].expected:
                found[-1].command += "\n" + line[2:]
            elif found:
                found[-1].expected.append(line.rstrip())
    return found


def agrees(expected: list[str], printed: list[str]) -> bool:
    """Whether the printed lines are the expected ones, `…` standing for anything."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"[ \t]*\n"
        for line in expected
    )
    text = "".join(line.rstrip() + "\n" for line in printed if line.strip())
    return re.fullmatch(pattern, text) is not None


def test_the_comparison_bites() -> None:
    assert agrees(["a", "…", "b … c"], ["a", "x", "y", "b 12 c"])
    assert agrees(["a", "…"], ["a"])
    assert not agrees(["a"], ["a", "b"])
    assert not agrees(["total 4"], ["total 5"])


def test_there_are_pages_with_commands() -> None:
    assert TOP / "README.md" in PAGES
    assert len(PAGES) >= 3


@pytest.mark.xdist_group("docs")  # one after another: the pages share the workspace
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_console_block_runs_and_prints_what_the_page_says(page: Path, workspace: Path) -> None:
    found = steps(page.read_text())
    script = "set -m\n" + "".join(f'{{ {s.command}\n}} 2>&1; echo "{END} $?"\n' for s in found)
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=workspace,
        env=environment(workspace),
        capture_output=True,
        text=True,
        timeout=880,
    )
    outputs = re.split(rf"{END} (\d+)\n", run.stdout)
    for number, step in enumerate(found):
        printed, code = outputs[2 * number], outputs[2 * number + 1]
        expected = [line for line in step.expected if line.strip()]
        assert not expected or agrees(expected, printed.splitlines()), (
            f"$ {step.command}\n(exit {code}) printed:\n{printed}"
        )
        assert code != "1" or any("error:" in line for line in expected), (
            f"$ {step.command}\nfailed:\n{printed}"
        )
        assert code not in {"2", "126", "127"}, f"$ {step.command}\nexit {code}:\n{printed}"
