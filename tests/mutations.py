"""Damaged variants of a JSON document, to test that a reader accepts them or reports one error."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, -(2**70), 0.5, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "text", "a\x00b", "\x1b[31m\n", "../../etc/passwd", "é" * 5000, [], {}, [[]], [None], ["x", 1], {"a": 1},
)  # fmt: skip
NESTED = 200_000


def mutations(document: Any, count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` damaged files of a JSON document; the same for the same seed.

    Half of them have one to three values that are dropped, added or replaced. The others have a damaged text.

    Args:
        document: an object or a list, which is not changed.
        count: number of files; at least 40 has every kind of damage.
        seed: of the places and the values.
    """
    generator = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield TEXTS[number // 2 % len(TEXTS)](document, generator)
            continue
        changed = copy.deepcopy(document)
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            VALUE_CHANGES[number // 2 % len(VALUE_CHANGES)](changed, generator)
        yield _text(changed).encode()


def _text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def _inner(document: Any, generator: random.Random) -> tuple[Any, Any]:
    """A random object or list inside the document with one of its keys; (None, None) if all of them are empty."""
    homes = [document] if isinstance(document, dict | list) and document else []
    for home in homes:  # grows while it is read: breadth first
        values = home.values() if isinstance(home, dict) else home
        homes += [value for value in values if isinstance(value, dict | list) and value]
    if not homes:
        return None, None
    home = generator.choice([homes[0], *homes[:50], generator.choice(homes)])  # rather the upper levels
    return home, generator.choice(list(home) if isinstance(home, dict) else range(len(home)))


def _drop(document: Any, generator: random.Random) -> None:
    home, key = _inner(document, generator)
    if home is not None:
        del home[key]


def _replace(document: Any, generator: random.Random) -> None:
    home, key = _inner(document, generator)
    if home is not None:
        home[key] = copy.deepcopy(generator.choice(VALUES))


def _wrong_container(document: Any, generator: random.Random) -> None:
    """A list instead of an object or the reverse, or a value inside a list."""
    home, key = _inner(document, generator)
    if home is not None:
        value = home[key]
        home[key] = list(value) if isinstance(value, dict) else {"0": value} if isinstance(value, list) else [value]


def _as_text(document: Any, generator: random.Random) -> None:
    """A number as text, or text as a number."""
    home, key = _inner(document, generator)
    if home is not None:
        home[key] = len(home[key]) if isinstance(home[key], str) else str(home[key])


def _add(document: Any, generator: random.Random) -> None:
    home, _ = _inner(document, generator)
    if isinstance(home, dict):
        home[generator.choice(("", "unknown", "__class__", "a\nb"))] = copy.deepcopy(generator.choice(VALUES))
    elif home is not None:
        home.insert(generator.randrange(len(home) + 1), copy.deepcopy(generator.choice(VALUES)))


VALUE_CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (_drop, _replace, _wrong_container, _as_text, _add)


def _truncated(document: Any, generator: random.Random) -> bytes:
    data = _text(document).encode()
    return data[: generator.randrange(len(data))]


def _invalid_utf8(document: Any, generator: random.Random) -> bytes:
    data = _text(document).encode()
    place = generator.randrange(len(data))
    return data[:place] + b"\xff\xc0\x80" + data[place:]


def _control_character(document: Any, generator: random.Random) -> bytes:
    data = _text(document).encode()
    place = generator.randrange(len(data))
    return data[:place] + generator.choice((b"\x00", b"\x1b", b"\x07", b"\n")) + data[place:]


def _other_byte(document: Any, generator: random.Random) -> bytes:
    data = bytearray(_text(document).encode())
    data[generator.randrange(len(data))] = generator.choice(b'{}[],:"0-e ')
    return bytes(data)


def _twice(document: Any, generator: random.Random) -> bytes:
    """The first key of the document twice, with another value."""
    key = next(iter(document)) if isinstance(document, dict) and document else "key"
    again = f"{{{json.dumps(key)}: {json.dumps(generator.choice(VALUES))}, {json.dumps(key)}: 1"
    rest = _text(document)[1:-1] if isinstance(document, dict) else ""
    return f"{again}{', ' if rest else ''}{rest}}}".encode()


def _nested(document: Any, generator: random.Random) -> bytes:
    """A value that is nested very deeply, alone or inside the document."""
    deep = generator.choice((("[", "]"), ('{"a": ', "}")))
    text = deep[0] * NESTED + "1" + deep[1] * NESTED
    if isinstance(document, dict) and document and generator.random() < 0.5:
        key = generator.choice(list(document))
        rest = {name: value for name, value in document.items() if name != key}
        return f"{{{json.dumps(key)}: {text}{', ' if rest else ''}{_text(rest)[1:]}".encode()
    return text.encode()


def _other_document(document: Any, generator: random.Random) -> bytes:
    return json.dumps(generator.choice(VALUES)).encode()


TEXTS: tuple[Callable[[Any, random.Random], bytes], ...] = (
    _truncated,
    _invalid_utf8,
    lambda document, generator: _text(document).encode("utf-16"),
    lambda document, generator: _text(document).encode("utf-8-sig"),
    _control_character,
    _other_byte,
    _twice,
    _nested,
    _other_document,
    lambda document, generator: b"",
)
