"""The `mdqe` command, with one file per subcommand.

The file of a command defines HELP (one line), EXAMPLE (a command line), `add_arguments(parser)` and `run(args)`. `run`
returns the exit status: 0 done; 1 partly done, because of a damaged video or an interruption; 2 not done. It raises
MDQEError or OSError for what a user can fix. SIGTERM ends a command as Ctrl-C does, with the exit status 143.
`memory_hint` of the arguments is printed after "out of memory". Results go to stdout, messages to stderr. The files
import heavy libraries inside functions only, so that `--help` is quick.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from io import TextIOWrapper
from keyword import iskeyword
from typing import Any, NoReturn, TypeVar

import mdqe
from mdqe.cli.process import set_up_process
from mdqe.errors import MDQEError, is_out_of_memory

T = TypeVar("T")
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""tqdm's, except that it always shows items per second, also below one."""
COMMANDS = (
    "segment", "link", "demo", "app", "train", "evaluate", "view", "submit", "split", "make-data", "import",
    "write", "fetch", "convert", "publish", "export", "info",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Prints errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. None: the arguments and the settings of this process."""
    if argv is None:
        set_up_process()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a name with bytes that are not UTF-8 stays as it is
    args = _parser().parse_args(argv)
    try:
        with _terminable():
            status = args.run(args)
            _flush()
            return status
    except Terminated:
        say(f"mdqe {args.command}: terminated")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        say(f"mdqe {args.command}: interrupted")
        return 1
    except BrokenPipeError:  # the reader of stdout has ended
        with suppress(OSError):
            _flush()
        return 1
    except Exception as error:
        try:
            _flush()
        except OSError as failure:
            if isinstance(error, OSError) and error.filename is None:  # of a print
                error = failure
        return report(args.command, error, hint=getattr(args, "memory_hint", ""))


def _flush() -> None:
    """Write what is buffered of stdout. If that fails, discard it: the interpreter would try again at its end.

    Raises:
        OSError: for example, stdout is a file on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise type(error)(error.errno, error.strerror, "standard output") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated at SIGTERM inside the block, so that files are closed and partial ones are removed."""
    if threading.current_thread() is not threading.main_thread():  # others receive no signals
        yield
        return

    def terminate(number: int, frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """Print a message to stderr. stdout is for results only."""
    print(text, file=sys.stderr, flush=True)


def report(command: str, error: Exception, *, hint: str = "") -> int:
    """Print an error of a command and return the exit status: 2 if a user can fix it, 1 if it is a bug.

    An MDQEError, an OSError and a lack of memory are printed in one line. Other errors are bugs: they keep their
    traceback.

    Args:
        command: the name of the command.
        error: the error.
        hint: text after "out of memory".
    """
    if is_fixable(error):
        say(f"mdqe {command}: error: {one_line(error)}{hint if is_out_of_memory(error) else ''}")
        return 2
    traceback.print_exception(error)
    say(f"mdqe {command}: this is a bug in mdqe {mdqe.__version__}; please report it with the lines above")
    return 1


def is_fixable(error: Exception) -> bool:
    """Whether a user can fix the cause of an error: anything but a bug."""
    return isinstance(error, MDQEError | OSError) or is_out_of_memory(error)


def one_line(error: BaseException) -> str:
    """The message of an error in one line, with the file that it is about."""
    if is_out_of_memory(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def progress(items: Iterable[T], doing: str, total: int | None, unit: str = "frame") -> Iterator[T]:
    """Iterate over items with a progress bar on stderr, or with one line at the end if stderr is not a terminal.

    Each process of torchrun has a bar in a line of its own, and prints one line at the end.

    Args:
        items: frames or other units.
        doing: the label of the bar.
        total: the expected number of items; None if unknown.
        unit: the name of one item.
    """
    with Progress(doing, total, unit) as bar:
        yield from bar.follow(items)


class Progress:
    """The bar of `progress` for work that continues after its last item.

    Use it as a context manager around the whole work. Arguments as in `progress`.

    Attributes:
        seconds: time from the beginning to the end of the block.
    """

    def __init__(self, doing: str, total: int | None, unit: str = "frame") -> None:
        self.doing, self.total, self.unit = doing, total, unit
        self.seconds = 0.0

    def follow(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over items. An item counts when the next one is requested."""
        for item in items:
            yield item
            self._number += 1
            self._bar.update()

    def __enter__(self) -> "Progress":
        from tqdm import tqdm

        self._start, self._number = time.monotonic(), 0
        columns, rows = shutil.get_terminal_size((100, 24))  # tqdm draws no bar if the terminal reports no size
        several, line = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1, int(os.environ.get("LOCAL_RANK", 0))
        place: dict[str, Any] = {"position": line, "leave": False} if several else {}
        self._bar = tqdm(
            desc=self.doing, total=self.total, unit=f" {self.unit}s", bar_format=BAR_FORMAT, file=sys.stderr,
            disable=None, ncols=columns, nrows=rows, **place,
        )  # fmt: skip
        self._silent = self._bar.disable or several  # `close` changes `disable`
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._start
        self._bar.close()
        if self._silent:
            speed = self._number / max(self.seconds, 1e-9)
            say(f"{self.doing}: {self._number} {self.unit}s in {self.seconds:.1f} s ({speed:.2f} {self.unit}s/s)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mdqe", description="Detect, segment and track the objects of a video.")
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
