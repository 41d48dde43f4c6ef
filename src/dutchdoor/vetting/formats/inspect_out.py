"""Our outcomes as a log of Inspect, so that `inspect view` opens them and `read_eval_log` reads them.

Log format 2 (inspect_ai.log.EvalLog). Scores are `correct` and `refused`, C and I; what is missing has an
error and no score. Evidence holds no answers, so the log has none.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DocumentError, UsageError
from dutchdoor.evidence.record import Evidence, Outcome
from dutchdoor.evidence.store import write_atomically
from dutchdoor.vetting.imported import questions
from dutchdoor.vetting.suites import Suite

VERSION = 2
WITHHELD = "(not in the evidence)"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes each time
_ACCURACY = {"name": "inspect_ai/accuracy", "options": {}}


def write_inspect(out: Path, evidence: Evidence, suite: Suite | None) -> None:
    """Write the log: `.eval` (zip) or `.json` by the name. With a suite its questions are written too.

    Raises UsageError for another name, DocumentError where it can't be written.
    """
    if out.suffix not in (".eval", ".json"):
        raise UsageError(f"--out {out} is neither .eval nor .json", hint="Inspect knows logs by these names")
    texts = {case.id: questions(case)[0] for case in suite.cases} if suite else {}
    header = _header(evidence)
    samples = [_sample(each, texts.get(each.id, WITHHELD)) for each in evidence.outcomes]
    encode: Callable[[Any], bytes] = msgspec.json.encode
    try:
        if out.suffix == ".json":
            write_atomically(out, encode({**header, "samples": samples}))
            return
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            start = {"version": VERSION, "eval": header["eval"], "plan": header["plan"]}
            _put(archive, "_journal/start.json", encode(start))
            for sample in samples:  # Inspect finds a sample by this name
                _put(archive, f"samples/{sample['id']}_epoch_1.json", encode(sample))
            _put(archive, "summaries.json", encode([_summary(each) for each in samples]))
            _put(archive, "header.json", encode(header))
    except OSError as error:
        raise DocumentError(f"can't write {out}: {error.strerror}") from error


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def _header(evidence: Evidence) -> dict[str, Any]:
    asked, of = evidence.conditions, evidence.subject
    short = evidence.address.removeprefix("sha256:")[:22]
    ids = [each.id for each in evidence.outcomes]
    names = [name for name in ("correct", "refused") if _scored(evidence, name)]
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": short,
            "run_id": short,
            "created": evidence.made_at,
            "task": asked.suite,
            "task_id": short,
            "task_version": 0,
            "task_args": {"threat": asked.threat.value, "rung": asked.rung.label if asked.rung else None},
            "dataset": {"name": asked.suite, "samples": len(ids), "sample_ids": ids, "shuffled": False},
            "model": f"dutchdoor/{of.member}/{of.variant}",
            "model_generate_config": {
                "temperature": asked.sampling.temperature,
                "top_p": asked.sampling.top_p,
                "max_tokens": asked.sampling.max_tokens,
                "seed": asked.seed,
            },
            "config": {"epochs": 1},
            "packages": {"dutchdoor": evidence.code_version},
            "metadata": {
                "evidence": evidence.address,
                "suite_digest": asked.suite_digest,
                "engine": f"{asked.engine} {asked.engine_version}",
            },
            "scorers": [{"name": name, "options": {}, "metrics": [_ACCURACY]} for name in names],
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(ids),
            "completed_samples": sum(each.error is None for each in evidence.outcomes),
            "scores": [_result(evidence, name) for name in names],
        },
        "stats": {"started_at": evidence.made_at, "completed_at": evidence.made_at, "model_usage": {}},
    }


def _scored(evidence: Evidence, name: str) -> list[bool]:
    return [value for each in evidence.outcomes if (value := getattr(each, name)) is not None]


def _result(evidence: Evidence, name: str) -> dict[str, Any]:
    values = _scored(evidence, name)
    return {
        "name": name,
        "scorer": name,
        "scored_samples": len(values),
        "unscored_samples": len(evidence.outcomes) - len(values),
        "params": {},
        "metrics": {"accuracy": {"name": "accuracy", "value": sum(values) / len(values), "params": {}}},
    }


def _sample(outcome: Outcome, question: str) -> dict[str, Any]:
    scores = {
        name: {"value": "C" if value else "I"}
        for name in ("correct", "refused")
        if (value := getattr(outcome, name)) is not None
    }
    sample: dict[str, Any] = {
        "id": outcome.id,
        "epoch": 1,
        "input": question,
        "target": "",
        "messages": [],
        "output": {"model": "", "choices": [], "completion": ""},
        "scores": scores,
        "metadata": {"cluster": outcome.cluster, "blocked": outcome.blocked},
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }
    if outcome.error is not None:
        sample["error"] = {"message": outcome.error, "traceback": "", "traceback_ansi": ""}
    return sample


def _summary(sample: dict[str, Any]) -> dict[str, Any]:
    """What the list of samples shows."""
    kept = {name: sample[name] for name in ("id", "epoch", "input", "target", "scores", "metadata")}
    error = sample.get("error", {}).get("message")
    return {**kept, "completed": True} | ({} if error is None else {"error": error})
