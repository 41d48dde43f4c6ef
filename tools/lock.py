"""Pin everything: writes constraints.txt (versions) and requirements.lock (versions with the hash of every file).

usage: python tools/lock.py            needs the package index; run it after changing dependencies in pyproject.toml

Run it with the oldest Python that is supported (3.11.2, Debian 12's): a pin that this one can't take is no pin.

torch is pinned in constraints.txt but not in the lock: its CPU and CUDA builds are different files of one version, and
which one fits is for the machine to say.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
INDEX = "https://pypi.org/simple"  # the public index; mirrors are set in pip's own configuration
OLDEST = (3, 11, 2)
UNHASHED = {"torch"}


def wanted() -> list[str]:
    """Every dependency that pyproject.toml names: core, extras, development, build."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    rows: list[str] = [*project["project"]["dependencies"], *project["build-system"]["requires"], "editables"]
    for extra in project["project"]["optional-dependencies"].values():
        rows += extra
    for group in project["dependency-groups"].values():
        rows += group
    return sorted({row for row in rows if not row.startswith("dutchdoor[")})


def resolve(rows: list[str]) -> dict[str, str]:
    """Resolve with pip itself: {normalised name: version}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), "torch==2.13.0", *rows], check=True)
        items = json.loads(report.read_text())["install"]
    return {normal(item["metadata"]["name"]): item["metadata"]["version"].split("+")[0] for item in items}


def normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def hashes(name: str, version: str) -> list[str]:
    """SHA-256 of every file the index has of this version."""
    request = urllib.request.Request(
        f"{INDEX}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        page = json.load(answer)
    stem = {f"{name}-{version}", f"{name}-{version}".replace("-", "_")}
    found = set()
    for file in page["files"]:
        flat = normal(file["filename"])
        if any(flat.startswith(normal(s) + tail) for s in stem for tail in ("-py", "-cp", "-tar", "-zip")):
            found.add(file["hashes"]["sha256"])
    return sorted(found)


def main() -> None:
    if sys.version_info[:3] > OLDEST:
        oldest = ".".join(map(str, OLDEST))
        sys.exit(f"error: this Python would pin what {oldest} can't take\n\nhint: run it with that one")
    pins = resolve(wanted())
    (TOP / "constraints.txt").write_text(
        "# Every version, for `pip install -c constraints.txt 'dutchdoor[vet]'`. Made by tools/lock.py.\n"
        + "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
    )
    lines = ["# Every version and file hash but torch's, for `make`. Made by tools/lock.py.\n"]
    for name, version in sorted(pins.items()):
        if name in UNHASHED:
            continue
        found = hashes(name, version)
        if not found:
            sys.exit(f"no hashes for {name}=={version} on the index")
        lines.append(f"{name}=={version} \\\n" + " \\\n".join(f"    --hash=sha256:{h}" for h in found) + "\n")
    (TOP / "requirements.lock").write_text("".join(lines))
    print(f"{len(pins)} packages pinned")


if __name__ == "__main__":
    main()
