"""Errors that a user can mend, as opposed to bugs.

The command line reports an `MDQEError` or an `OSError` in one line and exits with status 2. Any other exception is a
bug and keeps its traceback. Python callers can also catch the built-in base classes.
"""

import sys


class MDQEError(Exception):
    """Base class of all errors that a user can mend."""


class InputError(MDQEError, ValueError):
    """An invalid file, argument or configuration value. The message names it and what was expected."""


class DependencyError(MDQEError, ImportError):
    """An optional package is not installed. The message has the command that installs it."""


def printable(text: object, most: int = 80) -> str:
    """A text of a file, such as a name, as one short line for a message; control characters are escaped."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return line if len(line) <= most else f"{line[: most - 1]}…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the machine or its GPU has no memory left."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # PyTorch has no class of its own for the CPU's allocator.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
