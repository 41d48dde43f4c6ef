"""The command `dutchdoor`: loads a command's file when it is asked for, turns errors into words and exit codes."""

import importlib
import logging
import os
import sys
import unicodedata
from collections.abc import Sequence

import click

from dutchdoor import __version__
from dutchdoor.core import DutchdoorError, Exit, UsageError

# command → what it is for; the module of the same name in this package holds it (`-` becomes `_`)
COMMANDS = {
    "up": "Walk the whole way of a release, then serve.",
    "init": "Write a first family.yaml and policy.yaml from model folders or GGUF files.",
    "vet": "Measure each variant on the policy's suites under both threat models.",
    "gate": "Hold the scores of a candidate against a bound or a baseline.",
    "evidence": "Import the results of other evaluation tools as signed evidence, or export ours.",
    "policy": "Commit a policy to the family's release log before there is evidence.",
    "decide": "Decide each channel of each member from stored evidence.",
    "pack": "Make the signed bundle of each member that may leave.",
    "verify": "Check a bundle offline.",
    "report": "Write the report of a decision that a reviewer can read.",
    "serve": "Serve the members whose API channel is open.",
    "run": "Chat with a bundle or a model on this machine.",
    "compare": "Compare two models on the same cases.",
    "routes": "List, swap and import the targets behind public names.",
    "targets": "Find local servers, and find out what targets can do.",
    "keys": "Create, change and revoke API keys.",
    "budgets": "Set budgets of teams and model families.",
    "bill": "Sum up what was used.",
    "usage": "Export what was used as CloudEvents.",
    "prices": "Show what a third party's model would be charged.",
    "signing-keys": "Show, export and trust the keys that sign.",
}
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dutchdoor.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="dutchdoor")
def root() -> None:
    """Release a model family in two tiers: open weights below, a metered API above, one checkable chain.

    Example: dutchdoor up examples/gable/family.yaml
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: see `dutchdoor.core.Exit`."""
    try:
        logging.basicConfig(level=_log_level(), stream=sys.stderr)
        code = root.main(args=arguments, prog_name="dutchdoor", standalone_mode=False)
    except click.exceptions.Abort:
        code = interrupted()
    except click.ClickException as error:
        error.show()
        code = Exit.USAGE
    except KeyboardInterrupt:
        code = interrupted()
    except UsageError as error:
        code = report(error, Exit.USAGE)
    except DutchdoorError as error:
        code = report(error, Exit.FAILED)
    except BrokenPipeError:  # the reader of our output has left: `dutchdoor … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FAILED
    except Exception:  # the edge: a fault of ours, shown whole
        logging.getLogger("dutchdoor").exception("a fault in dutchdoor itself")
        code = Exit.FAILED
    sys.exit(int(code) if isinstance(code, int) else 0)


def interrupted() -> int:
    print("\ninterrupted; what was finished is kept, the same command goes on from there", file=sys.stderr)
    return 130


def report(error: DutchdoorError, code: Exit) -> int:
    print(shown(f"error: {error.message}"), file=sys.stderr)
    if error.hint:
        print(shown(f"\nhint: {error.hint}"), file=sys.stderr)
    return code


def shown(text: str) -> str:
    """Text that cannot steer a terminal: control characters other than line ends and tabs are left out."""
    return "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) != "Cc")


def _log_level() -> str:
    level = (os.environ.get("DUTCHDOOR_LOG") or "WARNING").upper()
    if level not in LOG_LEVELS:
        raise UsageError(f"DUTCHDOOR_LOG={level} is no level", hint=f"one of {', '.join(LOG_LEVELS)}")
    return level


if __name__ == "__main__":
    main()
