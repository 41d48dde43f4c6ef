"""The tools that are compared: how each is installed and called, and where its score is read from.

Each asks the same cases at the same endpoint, 64 at a time, once, and scores by exact match. Only a package index is
asked; an environment that has the pinned version is left as it is.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = HERE.parent / ".peers"
PINS: dict[str, str] = tomllib.loads((HERE / "versions.toml").read_text())
PYTHON = str(ROOT / ".venv" / "bin" / "python")
DUTCHDOOR = str(ROOT / ".venv" / "bin" / "dutchdoor")


class Missing(Exception):  # noqa: N818 — a state, not an error of ours
    """A peer cannot be had here; the message says why."""


@dataclass
class Call:
    """One command over the cases in a folder, and how its score is found afterwards."""

    command: list[str]
    score: Callable[[], float]
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Tool:
    name: str
    version: Callable[[], str]
    keeps: str  # what is left of a run
    call: Callable[[Path, str, int], Call]  # folder with cases.jsonl, base URL, concurrency
    install: Callable[[Callable[[str], None]], None] = lambda say: None
    rounds: int = 3


def write_cases(folder: Path, count: int) -> None:
    """The suite, the family that asks it, and the peers' own task files. One case in ten has a wrong target."""
    folder.mkdir(parents=True)
    rows = [
        {
            "id": f"c{i}",
            "prompt": f"Say it: n={i}",
            "scorer": "exact",
            "target": str(i % 7) if i % 10 else "no",
            "max_tokens": 16,
        }
        for i in range(count)
    ]
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- ours -----------------------------------------------------------------------------------------------------------

FAMILY = """\
kind: dutchdoor/family@1
family: bench
version: 1.0.0
publisher: {{name: Lab}}
members:
  - name: served
    license: LicenseRef-own
    variants: [{{id: main}}]
    serve: {{target: {{url: "{url}", model: bench}}}}
policies: [policy.yaml]
"""
POLICY = """\
kind: dutchdoor/policy@1
id: base
suites: {skill.bench: {path: cases.jsonl}}
rules:
  - {id: bench, gates: api, measure: skill.bench, at_least: 0.5}
"""


def _ours(folder: Path, url: str, concurrency: int) -> Call:
    (folder / "family.yaml").write_text(FAMILY.format(url=url))
    (folder / "policy.yaml").write_text(POLICY)

    def score() -> float:
        done = _run([DUTCHDOOR, "vet", str(folder / "family.yaml"), "--format", "json"], env=env)
        (row,) = json.loads(done)["rows"]
        assert row["state"] == "reused", "the evidence is not there"
        return float(row["measures"]["skill.bench"]["value"])

    env = {"DUTCHDOOR_CONFIG": str(folder / "config")}
    command = [DUTCHDOOR, "vet", str(folder / "family.yaml"), "--concurrency", str(concurrency)]
    return Call(command, score, env)


def _our_version() -> str:
    return _run([DUTCHDOOR, "--version"]).split()[-1]


# --- the bare loop --------------------------------------------------------------------------------------------------


def _bare(folder: Path, url: str, concurrency: int) -> Call:
    out = folder / "bare.jsonl"

    def score() -> float:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        return sum(bool(row["correct"]) for row in rows) / len(rows)

    cases = str(folder / "cases.jsonl")
    return Call([PYTHON, str(HERE / "bare.py"), url, cases, str(out), str(concurrency)], score)


def _aiohttp_version() -> str:
    return "aiohttp " + _run([PYTHON, "-c", "import aiohttp; print(aiohttp.__version__)"]).strip()


# --- lm-eval --------------------------------------------------------------------------------------------------------

LM_EVAL_TASK = """\
task: bench
dataset_path: json
dataset_kwargs: {{data_files: {{test: {cases}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["###"], max_gen_toks: 16, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def _lm_eval(folder: Path, url: str, concurrency: int) -> Call:
    tasks, out = folder / "tasks", folder / "lm-eval"
    tasks.mkdir()
    (tasks / "bench.yaml").write_text(LM_EVAL_TASK.format(cases=folder / "cases.jsonl"))
    model = (
        f"model=bench,base_url={url}/chat/completions,num_concurrent={concurrency},tokenized_requests=False"
    )
    command = [
        str(CACHE / "lm-eval" / "bin" / "lm_eval"),
        "--model",
        "local-chat-completions",
        "--model_args",
        model,
    ]
    command += ["--tasks", "bench", "--include_path", str(tasks), "--apply_chat_template", "--log_samples"]
    command += ["--output_path", str(out)]

    def score() -> float:
        (results,) = out.rglob("results_*.json")
        return float(json.loads(results.read_text())["results"]["bench"]["exact_match,none"])

    env = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    return Call(command, score, env)


# --- Inspect --------------------------------------------------------------------------------------------------------

INSPECT_TASK = """\
from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

@task
def bench():
    data = json_dataset("cases.jsonl", FieldSpec(id="id", input="prompt", target="target"))
    return Task(dataset=data, solver=generate(), scorer=exact())
"""


def _inspect(folder: Path, url: str, concurrency: int) -> Call:
    out = folder / "inspect"
    (folder / "bench_task.py").write_text(INSPECT_TASK)
    command = [str(CACHE / "inspect" / "bin" / "inspect"), "eval", "bench_task.py"]
    command += ["--model", "openai-api/bench/bench", "--max-connections", str(concurrency)]
    command += ["--max-samples", str(concurrency), "--max-tokens", "16", "--temperature", "0"]
    command += ["--display", "none", "--no-log-realtime", "--log-format", "json", "--log-dir", str(out)]

    def score() -> float:
        (log,) = out.glob("*.json")
        (scores,) = json.loads(log.read_text())["results"]["scores"]
        return float(scores["metrics"]["mean"]["value"])  # of exact(): the share that is right

    return Call(command, score, {"BENCH_BASE_URL": url, "BENCH_API_KEY": "none"})


# --- installing -----------------------------------------------------------------------------------------------------


def _environment(folder: str, packages: dict[str, str], told: str) -> Callable[[Callable[[str], None]], None]:
    """An installer of these requirements (with their pins) into an environment of its own."""

    def install(say: Callable[[str], None]) -> None:
        home = CACHE / folder
        if _installed(folder, told) == PINS[told]:
            return
        say(f"installing {', '.join(packages)}")
        if not (home / "bin" / "python").exists():
            _run([sys.executable, "-m", "venv", str(home)])
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        held = CACHE / "constraints.txt"  # a torch for GPUs would be gigabytes for nothing
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        held.write_text("\n".join(line for line in lines if line.startswith("torch==")) + "\n")
        wanted = [f"{name}=={pin}" for name, pin in packages.items()]
        _run([*pip, *wanted], env={"PIP_CONSTRAINT": str(held)}, limit_s=900)

    return install


def _installed(folder: str, package: str) -> str:
    """The version of a package in an environment of ours; empty where there is none."""
    name = package.replace("-", "_")
    for info in (CACHE / folder).glob(f"lib/python3*/site-packages/{name}-*.dist-info"):
        return info.name.removesuffix(".dist-info").rpartition("-")[2]
    return ""


def _run(command: list[str], *, env: dict[str, str] | None = None, limit_s: float = 120) -> str:
    try:
        done = subprocess.run(
            command,
            check=False,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Missing(f"{Path(command[0]).name} ended with {done.returncode}: {' '.join(last)}")
    return done.stdout


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("Dutchdoor", _our_version, "signed evidence; resumable", _ours),
        Tool("bare loop", _aiohttp_version, "a line an answer", _bare),
        Tool(
            "lm-eval",
            lambda: _installed("lm-eval", "lm-eval"),
            "results and samples at the end",
            _lm_eval,
            _environment("lm-eval", {"lm_eval[api]": PINS["lm-eval"]}, "lm-eval"),
            rounds=1,
        ),
        Tool(
            "Inspect",
            lambda: _installed("inspect", "inspect-ai"),
            "a log; display and realtime log off",
            _inspect,
            _environment(
                "inspect", {"inspect_ai": PINS["inspect-ai"], "openai": PINS["openai"]}, "inspect-ai"
            ),
            rounds=1,
        ),
    )
}
