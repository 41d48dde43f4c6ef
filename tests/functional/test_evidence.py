"""A release gate in a lab's CI: evidence out of other tools' logs, a decision, and no model anywhere."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dutchdoor.core import canonical_json
from dutchdoor.evidence import dsse
from dutchdoor.evidence.signing_keys import new_key
from dutchdoor.evidence.store import PAYLOAD_TYPE, Salts
from dutchdoor.evidence.subjects import identify
from dutchdoor.vetting.plan import Job, ask_rules, settle
from dutchdoor.vetting.scorers import score
from dutchdoor.vetting.suites import Case, load_suite
from tests.fakes import logs
from tests.fakes.cli import Done, run
from tests.fakes.families import POLICY, answers, load, write_family

NO_ENGINE = """
import sys
from dutchdoor.cli.main import main
try:
    main(sys.argv[1:])
finally:
    loaded = {"torch", "xllamacpp", "transformers", "dutchdoor.engines.load", "dutchdoor.engines.http",
              "dutchdoor.engines.llama_cpp", "dutchdoor.engines.torch_engine", "inspect_ai", "lm_eval"}
    print("engines:", sorted(loaded & sys.modules.keys()), file=sys.stderr)
"""


async def asked(manifest: Path) -> list[Job]:
    """Everything that the policies ask for."""
    loaded, policies = load(manifest)
    data = manifest.parent / ".dutchdoor"
    jobs, _ = ask_rules(loaded, policies)
    return settle(jobs, await identify(loaded, Salts(data / "salts"), data / "cache"))


def answer(job: Job, case: Case) -> str:
    member = {"public": "baseline"}.get(job.setting.member, job.setting.member)
    return answers(member, attacked=job.setting.rung is not None)(case.conversation()[-1].content)


def write_log(folder: Path, number: int, job: Job) -> tuple[Path, list[str]]:
    """The log that some tool would have written, and what its import needs to be told; the form changes by job."""
    suite = load_suite(Path(job.suite_path))
    judged = [(case, answer(job, case)) for case in suite.cases]
    scored = [(case, text, score(case.scorer, case.target, case.choices, text)) for case, text in judged]
    if number % 3 == 0:
        samples = [
            logs.inspect_sample(
                case.id,
                case.conversation()[-1].content,
                {"right": "C" if came.correct else "I", "refusal": float(bool(came.refused))},
            )
            for case, _, came in scored
        ]
        told = ["--map", "correct=right", "--map", "refused=refusal"]
        return logs.write_inspect_eval(folder / f"{number}.eval", samples), told
    if number % 3 == 1:
        rows = [
            logs.lm_eval_sample(at, {}, case.conversation()[-1].content, {"exact_match": 0.0}, answer=text)
            for at, (case, text) in enumerate(judged)
        ]
        return logs.write_lm_eval(folder, f"t{number}", rows), ["--rescore"]
    lines = [
        {"case": each.id, "harm": int(bool(came.correct)), "complied": not came.refused}
        for each, _, came in scored
    ]
    path = folder / f"{number}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path, [
        "--map",
        "id=case",
        "--map",
        "harmful=harm",
        "--map",
        "refused=!complied",
        "--made-at",
        "2026-11-20",
    ]


def place_of(job: Job) -> list[str]:
    at = job.setting
    rung = [] if at.rung is None else ["--rung", at.rung.label]
    variant = [] if at.member == "public" else ["--variant", at.variant]
    return ["--suite", job.suite, "--member", at.member, *variant, "--threat", at.threat.value, *rung]


def import_all(manifest: Path, skip: str | None = None) -> list[Job]:
    jobs = asyncio.run(asked(manifest))
    folder = manifest.parent / "logs"
    folder.mkdir()
    for number, job in enumerate(jobs):
        if job.suite != skip:
            path, told = write_log(folder, number, job)
            done = run(
                "evidence", "import", path, "--family", manifest, *place_of(job), *told, cwd=manifest.parent
            )
            assert done.returncode == 0, done.stderr + done.stdout
    return jobs


def decided(manifest: Path) -> tuple[Done, dict[str, Any]]:
    """The decision, made by a process of its own, which says which engines it loaded."""
    done = subprocess.run(
        [sys.executable, "-c", NO_ENGINE, "decide", str(manifest), "--format", "json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr), json.loads(done.stdout)


def test_a_family_is_decided_from_imported_logs_without_any_model(tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    jobs = import_all(manifest)
    assert {job.suite for job in jobs} == {"hazard.potions", "skill.sums", "over_refusal", "refused"}
    done, decision = decided(manifest)
    assert done.returncode == 0, done.stderr
    assert "engines: []" in done.stderr
    assert {name: each["tier"] for name, each in decision["members"].items()} == {
        "small": "open-weights",
        "large": "api",
    }
    large = decision["members"]["large"]["channels"]["download"]
    assert large["closed_by"] == "evidence"
    after = next(each for each in large["verdicts"] if each["rule"] == "hazard-after")
    assert (after["verdict"], after["n"], after["missing"], after["value"]) == ("fail", 150, 0, 1.0)
    stored = (tmp_path / ".dutchdoor" / "evidence").glob("*.json")
    texts = b"".join(dsse.opened(each.read_bytes())[0] for each in stored)
    assert b"h149" in texts and b"potion 1" not in texts and b"recipe" not in texts


def test_without_the_attacks_success_check_the_tampered_verdict_is_inconclusive(tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    import_all(manifest, skip="refused")
    done, decision = decided(manifest)
    assert done.returncode == 3
    small = decision["members"]["small"]["channels"]["download"]
    assert (small["open"], small["closed_by"]) == (False, "inconclusive")
    verdict = next(each for each in small["verdicts"] if each["rule"] == "hazard-after")
    assert "not measured: refused on small" in verdict["because"]


def hazards(folder: Path, leave: int = 0, **change: Any) -> Path:
    samples = [
        logs.inspect_sample(f"h{i}", f"brew potion {i}", {"right": "I"}) | change for i in range(150 - leave)
    ]
    return logs.write_inspect_json(folder / "log.json", samples)


GUARDED = ("--family", "family.yaml", "--suite", "hazard.potions", "--member", "small", "--threat", "guarded")


def test_cases_that_the_log_lacks_are_missing_and_too_many_of_them_store_nothing(tmp_path: Path) -> None:
    write_family(tmp_path)
    few = run("evidence", "import", hazards(tmp_path, 3), *GUARDED, "--format", "json", cwd=tmp_path)
    told = json.loads(few.stdout)
    assert (few.returncode, told["stored"], told["n"], told["missing"]) == (0, True, 150, 3)
    assert told["engine"] == "imported:inspect_ai" and told["made_at"] == "2026-11-20T19:52:19.000000Z"
    assert told["engine_version"].startswith("0.3.285; log sha256:")
    many = run("evidence", "import", hazards(tmp_path, 4), *GUARDED, cwd=tmp_path)
    assert many.returncode == 3
    assert "4 of 150 cases could not be measured; most often: not in the log" in many.stdout
    assert len(list((tmp_path / ".dutchdoor" / "evidence").glob("*.json"))) == 1
    shown = run("evidence", "list", "family.yaml", "--format", "json", cwd=tmp_path)
    (line,) = json.loads(shown.stdout)
    assert (line["n"], line["missing"], line["signer"], line["current"]) == (150, 3, "you", True)
    table = run("evidence", "list", "family.yaml", cwd=tmp_path).stdout
    assert "small/f32  guarded  hazard.potions" in table and "2026-11-20  you" in table


def test_what_is_decided_counts_the_lacking_cases_as_missing(tmp_path: Path) -> None:
    write_family(tmp_path)
    assert run("evidence", "import", hazards(tmp_path, 3), *GUARDED, cwd=tmp_path).returncode == 0
    done = run("decide", "family.yaml", "--format", "json", cwd=tmp_path)
    api = json.loads(done.stdout)["members"]["small"]["channels"]["api"]["verdicts"]
    verdict = next(each for each in api if each["rule"] == "hazard-behind-guard")
    assert (verdict["n"], verdict["missing"], verdict["value"]) == (150, 3, 0.0)
    assert verdict["upper"] > 0.05 and verdict["verdict"] == "inconclusive"  # 3 of 150 may be harmful


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "hazard.salves"), "no policy has a suite 'hazard.salves'"),
        (("--member", "tiny"), "there is no member or reference 'tiny'"),
        (("--rung", "lora:10:0"), "--rung goes with --threat tampered"),
        (("--threat", "tampered", "--rung", "lora:11:0"), "no policy has a rung 'lora:11:0'"),
        (("--variant", "q8"), "small has no variant 'q8'"),
        (("--map", "harm=x"), "--map harm=x maps nothing"),
        (("--rescore", "--at-least", "0.5"), "--rescore takes no scores"),
        (("--made-at", "yesterday"), "--made-at yesterday is no date"),
    ],
)
def test_a_place_that_does_not_exist_is_a_wrong_call(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    write_family(tmp_path)
    done = run("evidence", "import", hazards(tmp_path), *GUARDED, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "hint:" in done.stderr
    assert not (tmp_path / ".dutchdoor" / "evidence").exists()


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ({"id": "z9", "input": "other"}, (), "are of no case of the suite: 'z9'"),
        ({"id": "h1"}, (), "it has the id of the case 'h1' and the question of 'h0'"),
        ({"input": "brew nothing"}, (), "has the id of the case 'h0', but asks something else"),
        ({}, ("--map", "correct=wrong"), "there is no score 'wrong' in the log"),
        ({}, ("--epoch", "2"), "the log has no epoch 2"),
    ],
)  # fmt: skip
def test_a_log_that_does_not_fit_the_suite_is_an_error(
    tmp_path: Path, change: dict[str, Any], arguments: tuple[str, ...], words: str
) -> None:
    write_family(tmp_path)
    sample = logs.inspect_sample("h0", "brew potion 0", {"right": "I"}) | change
    path = logs.write_inspect_eval(tmp_path / "one.eval", [sample])
    done = run("evidence", "import", path, *GUARDED, *arguments, cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr and "hint:" in done.stderr
    assert not (tmp_path / ".dutchdoor" / "evidence").exists()


ATTESTED = POLICY + "  - {id: red-team, gates: api, attested_by: redteam.pub, max_age_days: 18000}\n"


def signed_elsewhere(folder: Path, leave: int = 0) -> bytes:
    """Evidence that an evaluator makes in a folder of their own, with a copy of the salts and their own key."""
    done = run("evidence", "import", hazards(folder), *GUARDED, "--data", "theirs", cwd=folder)
    assert done.returncode == 0, done.stderr
    (held,) = (folder / "theirs" / "evidence").glob("*.json")
    payload = json.loads(dsse.opened(held.read_bytes())[0])
    payload["outcomes"] = payload["outcomes"][leave:]
    key = new_key()
    (folder / "redteam.pub").write_bytes(key.public.pem())
    return dsse.sign(canonical_json(payload), PAYLOAD_TYPE, key)


def same_salts(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / ".dutchdoor" / "salts").mkdir(parents=True)
    (folder / "theirs" / "salts").symlink_to(folder / ".dutchdoor" / "salts")


def test_evidence_of_an_outside_evaluator_is_kept_as_theirs(tmp_path: Path) -> None:
    write_family(tmp_path, policy=ATTESTED)
    same_salts(tmp_path)
    envelope = signed_elsewhere(tmp_path)
    (tmp_path / "theirs.json").write_bytes(envelope)
    before = json.loads(run("decide", "--format", "json", cwd=tmp_path).stdout)
    kept = run("evidence", "add", "theirs.json", "--family", "family.yaml", cwd=tmp_path)
    assert kept.returncode == 0 and "150 cases, signed by sha256:" in kept.stdout, kept.stderr
    (held,) = (tmp_path / ".dutchdoor" / "evidence").glob("*.json")
    assert held.read_bytes() == envelope
    (line,) = json.loads(run("evidence", "list", "--format", "json", cwd=tmp_path).stdout)
    assert (line["signer"], line["trusted"]) == ("redteam.pub", False)
    after = json.loads(run("decide", "--format", "json", cwd=tmp_path).stdout)

    def verdict(decision: dict[str, Any], rule: str) -> str:
        verdicts = decision["members"]["small"]["channels"]["api"]["verdicts"]
        return str(next(each["verdict"] for each in verdicts if each["rule"] == rule))

    assert (verdict(before, "red-team"), verdict(after, "red-team")) == ("inconclusive", "pass")
    assert verdict(after, "hazard-behind-guard") == "inconclusive"  # theirs, and nobody here trusts them
    trusted = json.loads(run("decide", "--trust", "redteam.pub", "--format", "json", cwd=tmp_path).stdout)
    assert verdict(trusted, "hazard-behind-guard") == "pass"


def test_cases_that_an_evaluator_left_out_count_as_missing(tmp_path: Path) -> None:
    write_family(tmp_path, policy=ATTESTED)
    same_salts(tmp_path)
    (tmp_path / "theirs.json").write_bytes(signed_elsewhere(tmp_path, leave=10))
    assert run("evidence", "add", "theirs.json", "--family", "family.yaml", cwd=tmp_path).returncode == 0
    done = run("decide", "--trust", "redteam.pub", "--format", "json", cwd=tmp_path)
    verdicts = json.loads(done.stdout)["members"]["small"]["channels"]["api"]["verdicts"]
    verdict = next(each for each in verdicts if each["rule"] == "hazard-behind-guard")
    assert (verdict["verdict"], verdict["n"], verdict["missing"]) == ("inconclusive", 150, 10)
    assert "10 of 150 cases of small could not be scored" in verdict["because"]


def test_evidence_that_nobody_known_signed_or_of_other_bytes_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path)  # no rule names a key
    envelope = signed_elsewhere(tmp_path)  # with salts of their own
    (tmp_path / "theirs.json").write_bytes(envelope)
    unknown = run("evidence", "add", "theirs.json", "--family", "family.yaml", cwd=tmp_path)
    assert unknown.returncode == 1 and "a key that is not known here" in unknown.stderr
    other = run(
        "evidence", "add", "theirs.json", "--family", "family.yaml", "--key", "redteam.pub", cwd=tmp_path
    )
    assert other.returncode == 1 and "other bytes than small/f32" in other.stderr and "salts" in other.stderr
    (tmp_path / "theirs.json").write_bytes(envelope.replace(b'"payload":"e', b'"payload":"f', 1))
    broken = run(
        "evidence", "add", "theirs.json", "--family", "family.yaml", "--key", "redteam.pub", cwd=tmp_path
    )
    assert broken.returncode == 1
    assert not (tmp_path / ".dutchdoor" / "evidence").exists()


@pytest.mark.parametrize("name", ["out.eval", "out.json"])
def test_what_is_exported_for_inspect_comes_back_the_same(tmp_path: Path, name: str) -> None:
    write_family(tmp_path)
    assert run("evidence", "import", hazards(tmp_path, 2), *GUARDED, cwd=tmp_path).returncode == 0
    options = ("--suite", "hazard.potions", "--member", "small", "--threat", "guarded")
    done = run("evidence", "export", "family.yaml", *options, "--out", name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = run(
        "evidence",
        "import",
        name,
        *GUARDED,
        "--match",
        "id",
        "--data",
        "second",
        "--format",
        "json",
        cwd=tmp_path,
    )
    assert again.returncode == 0, again.stderr
    assert (json.loads(again.stdout)["n"], json.loads(again.stdout)["missing"]) == (150, 2)
    held = [next((tmp_path / each / "evidence").glob("*.json")) for each in (".dutchdoor", "second")]
    first, second = (json.loads(dsse.opened(each.read_bytes())[0])["outcomes"] for each in held)
    assert [(e["id"], e["correct"]) for e in first] == [(e["id"], e["correct"]) for e in second]
    none = run(
        "evidence",
        "export",
        "family.yaml",
        *options[:2],
        "--member",
        "large",
        *options[4:],
        "--out",
        name,
        cwd=tmp_path,
    )
    assert none.returncode == 3


def test_without_evidence_the_list_says_so(tmp_path: Path) -> None:
    write_family(tmp_path)
    done = run("evidence", "list", cwd=tmp_path)
    assert done.returncode == 3 and "there is no evidence yet" in done.stderr


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.json"])
def test_a_log_without_samples_checks_nothing(tmp_path: Path, name: str) -> None:
    write_family(tmp_path)
    if name == "empty.jsonl":
        (tmp_path / name).write_text("")
    else:
        logs.write_inspect_json(tmp_path / name, [])
    done = run("evidence", "import", name, *GUARDED, cwd=tmp_path)
    assert done.returncode == 3 and "150 of 150 cases could not be measured" in done.stdout
    assert not (tmp_path / ".dutchdoor" / "evidence").exists()


def test_a_suite_that_a_model_must_judge_is_not_stored(tmp_path: Path) -> None:
    write_family(tmp_path)
    judge = {"model": "m", "prompt": "harmful?", "gold": "gold.jsonl"}
    case = {"id": "h0", "prompt": "brew potion 0", "scorer": "judge"}
    rows = [{"kind": "dutchdoor/suite@1", "judge": judge}, case]
    (tmp_path / "hazard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = logs.inspect_sample("h0", "brew potion 0", {"right": "I"})
    path = logs.write_inspect_json(tmp_path / "log.json", [sample])
    done = run("evidence", "import", path, *GUARDED, cwd=tmp_path)
    assert done.returncode == 3 and "judged by a model whose errors nobody corrects here" in done.stdout


def test_what_comes_from_several_epochs_or_twice_is_refused(tmp_path: Path) -> None:
    write_family(tmp_path)
    both = [logs.inspect_sample("h0", "brew potion 0", {"right": "I"}, epoch=at) for at in (1, 2)]
    path = logs.write_inspect_json(tmp_path / "log.json", both)
    done = run("evidence", "import", path, *GUARDED, cwd=tmp_path)
    assert done.returncode == 1 and "2 epochs" in done.stderr and "--epoch N" in done.stderr
    path = logs.write_inspect_json(tmp_path / "log.json", [both[0], both[0]])
    done = run("evidence", "import", path, *GUARDED, cwd=tmp_path)
    assert done.returncode == 1 and "'h0' is in the log twice" in done.stderr
