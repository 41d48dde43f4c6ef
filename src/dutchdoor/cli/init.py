"""`dutchdoor init`: a first manifest and a first policy from weights that lie here."""

import shlex
from pathlib import Path

import click

from dutchdoor.core import DutchdoorError, Exit, UsageError
from dutchdoor.family.draft import Draft, Found, draft_family, look_at
from dutchdoor.policy.draft import draft_policy


@click.command("init")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="this folder",
    help="Folder for family.yaml and policy.yaml; it is made if it isn't there.",
)
@click.option("--name", help="The family's name.  [default: what the members' names share]")
@click.option("--force", is_flag=True, help="Overwrite a family.yaml or policy.yaml that is there.")
def command(paths: tuple[Path, ...], out: Path, name: str | None, force: bool) -> int:
    """Write a first family.yaml and a commented policy.yaml from model folders or GGUF files.

    Reads headers and metadata only: parameters, architecture, context length, licence. Says what to fill in.

    Example: dutchdoor init ./small ./large ./small-q8.gguf --out release
    """
    manifest, policy = out / "family.yaml", out / "policy.yaml"
    there = [each for each in (manifest, policy) if each.exists()]
    if there and not force:
        raise UsageError(
            f"{' and '.join(str(each) for each in there)} would be overwritten",
            hint="--force overwrites, --out FOLDER writes elsewhere",
        )
    found = [look_at(each) for each in paths]
    draft = draft_family(found, out, name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        manifest.write_text(draft.text, "utf-8")
        policy.write_text(draft_policy(draft.family), "utf-8")
    except OSError as error:
        raise DutchdoorError(
            f"can't write to {out}: {error.strerror}", hint="--out FOLDER writes elsewhere"
        ) from error
    click.echo(_told(found, draft, manifest, policy))
    return Exit.CLEAN


def _told(found: list[Found], draft: Draft, manifest: Path, policy: Path) -> str:
    lines = [f"wrote {manifest} and {policy}", "", "found"]
    for each in found:
        facts = each.facts
        context = (
            f"{facts.context_length} tokens of context" if facts.context_length else "context length unknown"
        )
        parts = [
            facts.architecture or "unknown architecture",
            f"{facts.parameters:,} parameters",
            facts.dtype + (" (quantised)" if facts.quantised else ""),
            context,
            each.license or "licence unknown",
            "chat template" if facts.has_chat_template else "no chat template",
        ]
        lines.append(f"  {each.path}: {', '.join(parts)}")
    lines += ["", "fill in"]
    lines += [f"  {each}" for each in draft.to_fill]
    lines += ["", f"then: dutchdoor decide {shlex.quote(str(manifest))}"]
    return "\n".join(lines)
