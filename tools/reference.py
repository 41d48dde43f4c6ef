"""Write the generated part of the reference: every command's help, and the JSON Schemas of our files.

usage: python tools/reference.py [--check]     --check writes nothing and fails when a page is not what it should be
"""

import importlib
import json
import sys
from pathlib import Path

import click
import msgspec

from dutchdoor.cli.main import COMMANDS, root

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
SCHEMAS = {  # file of ours → module and type that reads it
    "family": ("dutchdoor.family.manifest", "Family"),
    "policy": ("dutchdoor.policy.rules", "Policy"),
    "routes": ("dutchdoor.gateway.routing.file", "RoutesFile"),
    "guard": ("dutchdoor.engines.guard", "GuardFile"),
}


def helps(name: str, command: click.Command, parent: click.Context) -> list[str]:
    """The help of a command and of its own commands, as Markdown sections."""
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    depth = "##" if parent.parent is None else "###"
    parts = [f"{depth} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, f"{name} lists {child} and does not have it"
            parts += helps(child, found, context)
    return parts


def pages() -> dict[Path, str]:
    top = click.Context(root, info_name="dutchdoor", max_content_width=100, terminal_width=100)
    commands = ["# Commands\n\nMade from the program itself by `tools/reference.py`.\n"]
    for name in COMMANDS:
        command = root.get_command(top, name)
        assert command is not None, f"no command {name}"
        commands += helps(name, command, top)
    found = {REFERENCE / "cli.md": "\n".join(commands)}
    for name, (module, kind) in SCHEMAS.items():
        schema = msgspec.json.schema(getattr(importlib.import_module(module), kind))
        found[REFERENCE / "schemas" / f"{name}.schema.json"] = (
            json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        )
    return found


def main() -> None:
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv:
        if stale:
            sys.exit(
                f"not up to date: {', '.join(p.name for p in stale)}; run: .venv/bin/python tools/reference.py"
            )
        return
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(REFERENCE.parent.parent)}")


if __name__ == "__main__":
    main()
