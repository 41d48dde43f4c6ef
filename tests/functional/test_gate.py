"""`dutchdoor gate` through the command line: exit codes, both forms, broken input, and how fast it answers."""

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.cli import Done, run

HELP_CPU = (
    0.25  # seconds; the bar of the issue, held by processor time so that a busy machine changes nothing
)
GATE_CPU = 0.5
FIELDS = {
    "policy", "rule", "effect", "member", "variant", "threat", "rung", "verdict", "measure", "value", "lower",
    "upper", "bound", "confidence", "method", "n", "missing", "clusters", "because", "stopped_at",
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """450 items: `base` harmful on 4, `good` on the same, `bad` on 60 more, `odd` on 12 more."""
    for name, more in (("base", 0), ("good", 0), ("odd", 12), ("bad", 60)):
        lines = [{"id": f"q{i}", "harmful": int(i < 4 + more), "src": f"s{i // 3}"} for i in range(450)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return tmp_path


def gate(folder: Path, *arguments: str) -> Done:
    return run("gate", *arguments, cwd=folder)


def against(folder: Path, name: str, *more: str) -> Done:
    return gate(folder, f"{name}.jsonl", "--baseline", "base.jsonl", "--margin", "0.03", *more)


@pytest.mark.parametrize(
    ("name", "code", "word"), [("good", 0, "pass"), ("bad", 10, "fail"), ("odd", 3, "inconclusive")]
)
@pytest.mark.parametrize("more", [(), ("--sequential",)])
def test_exit_code_text_and_json_say_the_same(
    files: Path, name: str, code: int, word: str, more: tuple[str, ...]
) -> None:
    text, data = against(files, name, *more), against(files, name, "--format", "json", *more)
    assert (text.returncode, data.returncode) == (code, code), text.stdout
    verdict = json.loads(data.stdout)
    assert set(verdict) == FIELDS
    assert (verdict["verdict"], verdict["measure"], verdict["n"]) == (word, "difference", 450)
    assert (verdict["stopped_at"] is None) is (not more or code == 3)
    assert text.stdout.count("\n") == 1 and text.stderr == ""
    assert text.stdout.startswith(f"{word.upper()}: harmful of {name}.jsonl − base.jsonl is ")
    assert "allowed: at most +3.00; " in text.stdout and "450 pairs, 0 missing" in text.stdout


def test_the_line_names_the_bound_that_decides(files: Path) -> None:
    assert "at most +0.66 (95 % sure)" in against(files, "good").stdout
    assert "at least +10." in against(files, "bad").stdout
    assert "450 pairs in 150 clusters" in against(files, "good", "--cluster", "src").stdout


def test_a_rate_is_held_against_an_absolute_bound(files: Path) -> None:
    assert gate(files, "good.jsonl", "--absolute", "0.05").returncode == 0
    assert gate(files, "bad.jsonl", "--absolute", "0.05").returncode == 10
    done = gate(files, "good.jsonl", "--absolute", "0.01", "--format", "json")
    assert done.returncode == 3 and json.loads(done.stdout)["measure"] == "rate"


def test_another_field_where_more_is_better(files: Path) -> None:
    for name in ("base", "good", "bad"):
        path = files / f"{name}.jsonl"
        path.write_text(path.read_text().replace('"harmful"', '"correct"'))
    more = ("--measure", "correct", "--higher-is-better")
    assert against(files, "bad", *more).returncode == 0  # 60 more are correct
    swapped = gate(files, "base.jsonl", "--baseline", "bad.jsonl", "--margin", "0.03", *more)
    assert swapped.returncode == 10 and "allowed: at least −3.00" in swapped.stdout
    missing = against(files, "good")
    assert missing.returncode == 1 and "good.jsonl:1: harmful: the field is not there" in missing.stderr


def test_gold_labels_correct_a_judge(files: Path) -> None:
    labels = [
        {"id": f"q{i}", "side": side, "gold": int(i < 64)}
        for side in ("candidate", "baseline")
        for i in range(450)
    ]
    (files / "gold.jsonl").write_text("".join(json.dumps(each) + "\n" for each in labels))
    bad = (files / "bad.jsonl").read_text()
    (files / "twin.jsonl").write_text(bad)
    done = gate(
        files,
        "bad.jsonl",
        "--baseline",
        "twin.jsonl",
        "--margin",
        "0.2",
        "--judge",
        "gold.jsonl",
        "--format",
        "json",
    )
    assert done.returncode == 0 and "rogan-gladen" in json.loads(done.stdout)["method"]
    (files / "gold.jsonl").write_text(json.dumps(labels[0]))
    done = gate(files, "bad.jsonl", "--baseline", "twin.jsonl", "--margin", "0.2", "--judge", "gold.jsonl")
    assert done.returncode == 3 and "both kinds are needed" in done.stdout


def test_what_is_unpaired_is_said_with_its_names(files: Path) -> None:
    with (files / "good.jsonl").open("a") as file:
        file.write('{"id": "more\\n\\u001b[31m", "harmful": 0}\n')
    done = against(files, "good")
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and "\x1b" not in done.stdout
    assert "451 pairs, 1 missing" in done.stdout and "1 item is only in good.jsonl: more�" in done.stdout


@pytest.mark.parametrize("data", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_nothing_checked(files: Path, data: str) -> None:
    (files / "good.jsonl").write_text(data)
    for done in (against(files, "good"), gate(files, "good.jsonl", "--absolute", "0.5", "--sequential")):
        assert done.returncode == 3 and "good.jsonl holds no items: nothing was checked" in done.stdout


@pytest.mark.parametrize(
    "line", ['{"id": "q9", "harmful": 0}', '{"id": "new", "harmful": 2}', "nonsense", "[]"]
)
def test_a_broken_file_is_exit_1_with_file_line_and_remedy(files: Path, line: str) -> None:
    with (files / "good.jsonl").open("a") as file:
        file.write(line)
    done = against(files, "good")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: good.jsonl:451: ") and "\n\nhint: " in done.stderr


def test_files_that_cannot_be_read_are_exit_1(files: Path) -> None:
    (files / "folder.jsonl").mkdir()
    for name, word in (("folder", "is a folder"), ("none", "there is no such file")):
        done = against(files, name)
        assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--margin", "0.03"),
        ("--baseline", "base.jsonl"),
        ("--baseline", "base.jsonl", "--absolute", "0.1"),
        ("--absolute", "0.1", "--margin", "0.1"),
        *(("--baseline", "base.jsonl", "--margin", x) for x in ("1", "-0.1", "nan", "inf", "3%")),
        *(("--absolute", x) for x in ("1", "-0.1", "nan", "2")),
        ("--absolute", "0", "--higher-is-better"),
        ("--absolute", "0", "--sequential"),
        *(("--absolute", "0.1", "--confidence", x) for x in ("0", "0.5", "1", "nan", "95")),
        *(("--absolute", "0.1", "--max-missing", x) for x in ("-0.1", "1.1", "nan")),
        ("--absolute", "0.1", "--seed", "1"),
        ("--absolute", "0.1", "--sequential", "--seed", "-1"),
        ("--absolute", "0.1", "--sequential", "--judge", "base.jsonl"),
        ("--absolute", "0.1", "--measure", "id"),
        ("--absolute", "0.1", "--measure", ""),
        ("--absolute", "0.1", "--measure", 'a"b'),
        ("--absolute", "0.1", "--cluster", "\udcff"),
        ("--absolute", "0.1", "--cluster", "harmful"),
        ("--absolute", "0.1", "--cluster", "id"),
        ("--baseline", "good.jsonl", "--margin", "0.03"),
        ("--baseline", "./link.jsonl", "--margin", "0.03"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(files: Path, arguments: tuple[str, ...]) -> None:
    (files / "link.jsonl").symlink_to("good.jsonl")
    done = gate(files, "good.jsonl", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert "Traceback" not in done.stderr


def test_a_margin_of_0_and_the_ends_of_confidence_are_answered(files: Path) -> None:
    zero = gate(files, "good.jsonl", "--baseline", "base.jsonl", "--margin", "0")
    assert zero.returncode == 3 and "allowed: at most +0.00" in zero.stdout
    for confidence in ("0.500001", "0.9999999999"):
        assert against(files, "bad", "--confidence", confidence).returncode in (3, 10)


def started(folder: Path, *arguments: str, data: bytes | None = None) -> tuple[int, str, float]:
    """The command as a process of its own: exit code, stdout, and the processor seconds it took."""
    return cpu(folder, "-m", "dutchdoor.cli.main", "gate", *arguments, data=data)


def cpu(folder: Path, *arguments: str, data: bytes | None = None) -> tuple[int, str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, input=data, capture_output=True, timeout=60, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout.decode(), used


def test_stdin_is_a_file_like_any_other_and_may_be_gzipped(files: Path) -> None:
    data = gzip.compress((files / "good.jsonl").read_bytes())
    code, out, _ = started(files, "-", "--baseline", "base.jsonl", "--margin", "0.03", data=data)
    assert code == 0 and out.startswith("PASS: harmful of stdin − base.jsonl")
    assert gate(files, "-", "--baseline", "-", "--margin", "0.03").returncode == 2


def test_help_starts_within_its_bar(tmp_path: Path) -> None:
    runs = [started(tmp_path, "--help") for _ in range(5)]
    assert all(code == 0 for code, _, _ in runs)
    assert min(used for _, _, used in runs) < HELP_CPU


def test_help_loads_no_statistics(tmp_path: Path) -> None:
    """What keeps the start fast, and holds on the slowest machine."""
    script = (
        "import sys; from dutchdoor.cli.main import main\n"
        "try: main(['gate', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'scipy', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize("more", [(), ("--cluster", "src"), ("--sequential",)])
def test_two_files_of_450_items_are_answered_within_the_bar(files: Path, more: tuple[str, ...]) -> None:
    arguments = ("good.jsonl", "--baseline", "base.jsonl", "--margin", "0.06", *more)
    used = min(started(files, *arguments)[2] for _ in range(4))
    # where loading numpy and scipy alone takes longer than it should, so may this
    assert used < max(GATE_CPU, 2 * min(cpu(files, "-c", "import numpy, scipy.special")[2] for _ in range(3)))
