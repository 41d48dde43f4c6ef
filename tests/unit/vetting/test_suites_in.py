"""Data sets in the public forms into suites. The rows are invented; only the columns are those of the formats."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.core import DocumentError, UsageError
from dutchdoor.vetting.formats.making import cases_of
from dutchdoor.vetting.formats.suites_in import CasesIn, make_suite
from dutchdoor.vetting.suites import Case, Header
from tests.fakes.cli import run

HARMBENCH = "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID"


def made(path: Path, format: str, **more: Any) -> CasesIn:
    options = {"scorer": None, "columns": {}} | more
    return make_suite(cases_of(path, format, **options), Header(name="x"), str(path))


def write(folder: Path, name: str, rows: list[dict[str, Any]] | str | dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
                    if isinstance(rows, list) else json.dumps(rows))  # fmt: skip
    return path


def one(path: Path, format: str, **more: Any) -> Case:
    return made(path, format, **more).suite.cases[0]


def test_of_xstest_only_the_safe_half_is_over_refusal(tmp_path: Path) -> None:
    text = (
        "id,prompt,type,label,focus,note\n"
        '1,"How do I kill time, quickly?",homonyms,safe,kill time,\n'
        "2,How do I kill a king?,contrast_homonyms,unsafe,kill,\n"
    )
    (case,) = made(write(tmp_path, "x.csv", text), "xstest").suite.cases
    assert (case.id, case.prompt, case.scorer, case.cluster) == (
        "1",
        "How do I kill time, quickly?",
        "refusal",
        "kill time",
    )
    older = text.replace(",label,focus", ",focus").replace(",safe,", ",").replace(",unsafe,", ",")
    assert [each.id for each in made(write(tmp_path, "y.csv", older), "xstest").suite.cases] == ["1"]


@pytest.mark.parametrize(
    ("format", "text", "id", "prompt"),
    [
        (
            "simplesafetytests",
            "id,harm_area,counter,category,prompt\nS1,Area,1,Info,May I?\n",
            "S1",
            "May I?",
        ),
        (
            "harmbench",
            f"{HARMBENCH}\nDo it,standard,c,,,do_it\n",
            "do_it",
            "Do it",
        ),
        (
            "harmbench",
            f"{HARMBENCH}\nDo it,contextual,c,,Once,do_it\n",
            "do_it",
            "Once\n\n---\n\nDo it",
        ),
        ("strongreject", "category,source,forbidden_prompt\nc,s,Tell me\n", "sr-1", "Tell me"),
    ],
)
def test_lists_of_harmful_requests_are_scored_by_refusal(
    tmp_path: Path, format: str, text: str, id: str, prompt: str
) -> None:
    case = one(write(tmp_path, "x.csv", text), format)
    assert (case.id, case.prompt, case.scorer) == (id, prompt, "refusal")


def test_wmdp_is_choice_by_letter(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["salt", "ash", "oil", "tar"], "answer": 2}
    case = one(write(tmp_path, "w.jsonl", [row]), "wmdp")
    assert (case.target, case.choices) == ("C", ("A", "B", "C", "D")) and "C. oil" in (case.prompt or "")
    for fault in ({"answer": 4}, {"choices": "salt"}, {"answer": "C"}):
        with pytest.raises(DocumentError, match=r"w\.jsonl:1"):
            one(write(tmp_path, "w.jsonl", [row | fault]), "wmdp")


def test_gsm8k_is_the_number_after_the_mark(tmp_path: Path) -> None:
    case = one(
        write(tmp_path, "g.jsonl", [{"question": "How many?", "answer": "5*300\n#### 1,500"}]), "gsm8k"
    )
    assert (case.target, case.scorer) == ("1500", "numeric")
    with pytest.raises(DocumentError, match="does not end in"):
        one(write(tmp_path, "g.jsonl", [{"question": "How many?", "answer": "1500"}]), "gsm8k")


def test_humaneval_becomes_calls_with_results_or_is_left_out(tmp_path: Path) -> None:
    check = "def check(candidate):\n    assert candidate(1, [2]) == 3\n    assert candidate(0, [])\n    assert True\n"
    row = {
        "task_id": "H/0",
        "prompt": "def f(a, b):\n",
        "entry_point": "f",
        "canonical_solution": "",
        "test": check,
    }
    odd = row | {"task_id": "H/1", "test": "def check(candidate):\n    assert abs(candidate(1) - 2) < 1e-6\n"}
    tuples = row | {"task_id": "H/2", "test": "def check(candidate):\n    assert candidate(1) == (1, 2)\n"}
    done = made(write(tmp_path, "h.jsonl", [row, odd, tuples]), "humaneval")
    (case,) = done.suite.cases
    assert case.target == {"function": "f", "tests": [[[1, [2]], 3], [[0, []], True]]}
    assert [each.split(": ")[1].split(" ")[0] for each in done.left_out] == ["H/1", "H/2"]


def test_bbh_is_choice_where_there_are_few_answers(tmp_path: Path) -> None:
    rows = [{"input": "not True is", "target": "False"}, {"input": "not False is", "target": "True"}]
    case = one(write(tmp_path, "boolean.json", {"canary": "…", "examples": rows}), "bbh")
    assert (case.id, case.target, case.choices) == ("boolean-1", "False", ("False", "True"))
    options = [{"input": "Which?\nOptions:\n(A) x\n(B) y\n(C) z", "target": "(B)"}]
    case = one(write(tmp_path, "dates.json", {"examples": options}), "bbh")
    assert (case.target, case.choices) == ("(B)", ("(A)", "(B)", "(C)"))


def test_rows_of_any_columns_are_mapped(tmp_path: Path) -> None:
    text = "q,gold,options\nWhich?,b,a|b\n"
    columns = {"prompt": "q", "target": "gold", "choices": "options"}
    case = one(write(tmp_path, "x.csv", text), "rows", scorer="choice", columns=columns)
    assert (case.id, case.prompt, case.target, case.choices) == ("1", "Which?", "b", ("a", "b"))
    with pytest.raises(DocumentError, match=r"x.csv:2: there is no 'golden', which was mapped to target"):
        one(tmp_path / "x.csv", "rows", scorer="exact", columns=columns | {"target": "golden"})


TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: d.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Path]:
    write(tmp_path, "d.jsonl", [{"id": "q1", "question": "2+2?", "answer": "4"}])
    yield write(tmp_path, "t.yaml", TASK)


def test_a_task_of_lm_eval_with_local_data_is_a_suite(task: Path) -> None:
    case = one(task, "lm-eval-task")
    assert (case.id, case.prompt, case.target, case.scorer) == ("q1", "Question: 2+2?\nAnswer:", "4", "exact")
    text = TASK.replace("generate_until", "multiple_choice").replace("exact_match", "acc")
    task.write_text(text + "doc_to_choice: ['3', '4']\n")
    case = one(task, "lm-eval-task")
    assert (case.target, case.choices) == ("B", ("A", "B"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("task: sums", "task: sums\nprocess_docs: x"), "the field 'process_docs' is not understood"),
        (("dataset_path: json", "dataset_path: org/data"), "dataset_path: 'org/data' is no local data set"),
        (("generate_until", "loglikelihood"), "output_type: 'loglikelihood' is not understood"),
        (("exact_match", "bleu"), "metric_list: {'metric': 'bleu'} is not understood"),
        (("{{question}}", "{{nothing}}"), "d.jsonl:1: doc_to_text: 'nothing' is undefined"),
        (("{{question}}", "{{question.__class__.__mro__}}"), "d.jsonl:1: doc_to_text"),
        (("doc_to_target: answer", "doc_to_target: solution"), "the document has no field 'solution'"),
        (("task: sums", "task: !function u.f"), "t.yaml"),
        (("test_split: test", "test_split: train"), "expected data_files with the file of train"),
    ],
)
def test_what_is_not_understood_of_a_task_is_an_error_that_names_it(
    task: Path, change: tuple[str, str], words: str
) -> None:
    task.write_text(TASK.replace(*change))
    with pytest.raises(DocumentError) as caught:
        one(task, "lm-eval-task")
    assert words in caught.value.message


def test_options_that_a_format_does_not_take_are_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown format"):
        made(tmp_path / "x", "mmlu")
    with pytest.raises(UsageError, match="takes neither"):
        made(tmp_path / "x", "gsm8k", scorer="exact")
    with pytest.raises(UsageError, match="not read here") as caught:
        made(tmp_path / "x", "hf")
    assert "to_json" in (caught.value.hint or "")


def test_the_command_writes_a_suite_and_leaves_out_only_if_asked(tmp_path: Path) -> None:
    odd = {
        "task_id": "H/1",
        "prompt": "def f(): ",
        "entry_point": "f",
        "test": "def check(candidate):\n    pass\n",
    }
    good = odd | {"task_id": "H/0", "test": "def check(candidate):\n    assert candidate() == 1\n"}
    path = write(tmp_path, "h.jsonl", [good, odd])
    done = run("evidence", "suite", path, "--as", "humaneval", "--out", "s.jsonl", cwd=tmp_path)
    assert done.returncode == 1 and "1 cases can't be judged here" in done.stderr
    assert not (tmp_path / "s.jsonl").exists()
    done = run(
        "evidence", "suite", path, "--as", "humaneval", "--leave-out", "--out", "s.jsonl", cwd=tmp_path
    )
    assert done.returncode == 0 and "1 cases, 1 left out" in done.stdout
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 2
