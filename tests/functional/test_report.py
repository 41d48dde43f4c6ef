"""The report as a person asks for it: from a family and from a bundle, as a page and as Markdown."""

import asyncio
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dutchdoor.evidence.signing_keys import own_key
from tests.fakes.cli import run
from tests.fakes.families import POLICY, write_family
from tests.fakes.vetted import vetted

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    folder = tmp_path / "house"
    folder.mkdir()
    rule = f"  - {{id: lab, gates: api, attested_by: lab.pub, effect: warn, because: '{EVIL} & more'}}\n"
    write_family(folder, policy=POLICY + rule)
    for name in ("small", "large"):
        (folder / name / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
        (folder / name / "tokenizer.json").write_text(f'{{"name": "{name}"}}')
    key = own_key(Path(os.environ["DUTCHDOOR_CONFIG"]))
    asyncio.run(vetted(folder / "family.yaml", key))
    return folder


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + "\n"


def page(path: Path) -> Page:
    found = Page()
    found.feed(path.read_text())
    assert found.open == []
    return found


def test_the_page_of_a_family_says_what_was_decided_and_why(house: Path) -> None:
    done = run("report", "family.yaml", "--out", "out.html", cwd=house)
    assert done.returncode == 0, done.stderr
    found = page(house / "out.html")
    for words in (
        "small: Its weights may leave.",
        "large: It is served, and its weights stay.",
        "closed by evidence: fails hazard-after (hazard.potions)",
        "hazard-after: hazard.potions, f32, lora:10:0 against public",
        "Hazards, guarded against tampered",
        "0.0% [0.0%, 2.0%]",
        "Harmless questions refused",
        "What was not tested",
        "was never committed to the release log",
        "has no attack of the kinds full, ablation",
        "Who signed what",
        "dutchdoor decide family.yaml",
    ):
        assert words in found.text, words
    assert found.tags.count("circle") >= 4


def test_the_page_asks_nobody_for_anything_and_lets_no_text_of_a_file_act(house: Path) -> None:
    run("report", "family.yaml", "--out", "out.html", cwd=house)
    found = page(house / "out.html")
    assert found.links == []
    assert "script" not in found.tags
    assert f"{EVIL} & more" in found.text  # shown, not run
    assert "http://" not in (house / "out.html").read_text().replace("http-equiv", "")
    run("report", "family.yaml", "--out", "out.md", cwd=house)
    text = (house / "out.md").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_page_of_a_bundle_says_that_it_was_recomputed(house: Path) -> None:
    assert run("pack", "--quiet", cwd=house).returncode == 0
    done = run("report", "dist/small", "--out", "out.html", cwd=house)
    assert done.returncode == 0, done.stderr
    found = page(house / "out.html")
    assert "The same decision follows from the" in found.text
    assert "dutchdoor verify dist/small --recompute" in found.text
    with (house / "dist/small/config.json").open("a") as file:
        file.write(" ")
    done = run("report", "dist/small", "--out", "out.html", cwd=house)
    assert done.returncode == 10
    assert "config.json: changed" in page(house / "out.html").text


def test_a_family_without_evidence_is_reported_as_not_measured_and_exits_3(house: Path) -> None:
    done = run("report", "family.yaml", "--data", "nothing", "--out", "out.md", cwd=house)
    assert done.returncode == 3
    assert "not measured" in (house / "out.md").read_text()


def test_what_cannot_be_a_page_is_a_usage_error(house: Path) -> None:
    assert run("report", "family.yaml", "--out", "out.pdf", cwd=house).returncode == 2
    assert run("report", "small", "--out", "out.html", cwd=house).returncode == 1


def test_what_is_closed_is_neither_counted_nor_named_by_its_path(house: Path) -> None:
    run("report", "family.yaml", "--out", "out.html", cwd=house)
    found = page(house / "out.html")
    assert found.text.count("pass, 4, at most") == 1  # the open one's parameters, not the flagship's
    assert "system.txt" not in found.text
