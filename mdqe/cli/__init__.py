"""The `mdqe` command, one file per subcommand.

A command's file has HELP (one line), EXAMPLE (a command line), `add_arguments(parser)` and `run(args)`, which gives the
exit status: 0 done; 1 done in part (a damaged video, an interruption) or a bug; 2 not done. A `run` raises MDQEError or
OSError for what the user can mend: one line on stderr and status 2. Results go to stdout, messages to stderr. The files
import heavy libraries only inside functions.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword
from typing import NoReturn

import mdqe
from mdqe.errors import MDQEError, is_out_of_memory

COMMANDS = (
    "segment",
    "demo",
    "app",
    "train",
    "evaluate",
    "view",
    "submit",
    "split",
    "make-data",
    "import",
    "convert",
    "export",
    "info",
)

REPORTED_ERRORS = (MDQEError, OSError)
"""Errors that a user can mend: the message is printed in one line, without a traceback."""


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        say(f"mdqe {args.command}: interrupted")
        return 1
    except BrokenPipeError:  # whoever read our results has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not isinstance(error, REPORTED_ERRORS) and not is_out_of_memory(error):
            traceback.print_exc()
            say(f"mdqe {args.command}: this is a bug in mdqe {mdqe.__version__}; please report it with the lines above")
            return 1
        say(f"mdqe {args.command}: error: {one_line(error)}")
        return 2


def say(text: str) -> None:
    """A line of talk: to stderr, so that stdout holds results alone."""
    print(text, file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """An error as one line that names the file it is about."""
    if is_out_of_memory(error):
        return "out of memory; a smaller --size needs less"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mdqe", description="Find, segment and follow the objects of a video.")
    parser.add_argument("--version", action="version", version=f"mdqe {mdqe.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module("mdqe.cli." + name.replace("-", "_") + "_" * iskeyword(name))
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
