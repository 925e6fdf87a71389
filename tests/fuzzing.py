"""What a reader may do with a damaged file: accept it, or report one error that names the file, in limited time."""

import random
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdqe.errors import MDQEError

SECONDS = 20  # a reader takes milliseconds; the machine may be busy
LONGEST = 4000  # characters of a message


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError in the block after some seconds."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def accepts(read: Callable[[], Any], *names: str | Path) -> bool:
    """Run a reader; return whether it accepted the file. The test fails with any other error than those of the library.

    Args:
        read: the reader.
        names: the message of an error must contain one of them.
    """
    try:
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except TimeoutError:  # is an OSError
        raise
    except (MDQEError, OSError) as error:
        text = str(error)
        assert any(str(name) in text for name in names), text
        first, *others = text.split("\n")
        assert all(line.startswith(("- ", "(skip_bad")) for line in others), text  # a list of problems, and the option
        assert all(line.isprintable() for line in (first, *others)), repr(text)
        assert len(text) < LONGEST, text
        return False
    return True


def damaged_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged variants of a binary file: truncated, or with changed, missing or added bytes."""
    generator = random.Random(seed)
    for number in range(count):
        place, length = generator.randrange(len(data)), generator.choice((1, 4, 64))
        noise = generator.randbytes(length)
        yield (
            data[:place],
            data[:place] + noise + data[place + length :],
            data[:place] + data[place + length :],
            data[:place] + noise + data[place:],
            data[: min(place, 200)] + noise + data[min(place, 200) + length :],  # in the header
        )[number % 5]


VALUES = (
    "", "-1", "0", "0.5", "nan", "inf", "1e999", str(2**31), str(2**70), "9" * 5000, "text", "é" * 5000, "\x00",
    "\x1b[31m", "../../x", "&a;", "<x>", '"', ",", ";", " ", "\n",
)  # fmt: skip
TOKEN = re.compile(r'[^\s"<>;,=/]+')


def damaged_texts(text: str, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged variants of a text file: other words, dropped and repeated lines, `damaged_bytes`."""
    generator, data = random.Random(seed), text.encode()
    words, lines = list(TOKEN.finditer(text)), text.splitlines(keepends=True)
    broken = damaged_bytes(data, count, seed)
    for number in range(count):
        word, line, other = generator.choice(words), generator.randrange(len(lines)), next(broken)
        yield (
            (text[: word.start()] + generator.choice(VALUES) + text[word.end() :]).encode(),
            (text[: word.start()] + VALUES[number % len(VALUES)] + text[word.end() :]).encode(),
            "".join(lines[:line] + lines[line + 1 :]).encode(),
            "".join(lines[:line] + lines[line:] + lines[line:]).encode(),
            other,
            (b"", data.decode().encode("utf-16"), b"\xef\xbb\xbf" + data, b"\xff\xfe" + data)[number // 6 % 4],
        )[number % 6]
