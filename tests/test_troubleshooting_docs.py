"""The messages that docs/troubleshooting.md quotes are those of the package and of its build."""

import ast
import re
from collections.abc import Iterator

import pytest
from doc_pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


def quoted() -> Iterator[list[str]]:
    """The messages in the first column of the tables of messages, each in pieces: what stands between ellipses."""
    for table in re.findall(r"^\| message \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE):
        for message in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE):
            yield [piece.strip() for piece in message.split("…") if piece.strip()]


def literals(source: str) -> Iterator[str]:
    """Every string of a program; what an f-string inserts becomes an ellipsis."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


def test_messages_exist():
    if not PAGE.is_file():
        pytest.skip("the pages are not installed with the package")
    files = [ROOT / "setup.py", *(ROOT / "mdqe").rglob("*.py")]
    known = [text for path in files for text in literals(path.read_text())]
    messages = list(quoted())
    assert len(messages) > 30
    missing = [
        message
        for message in messages
        if not any(re.search(".*".join(map(re.escape, message)), text, re.DOTALL) for text in known)
    ]
    assert not missing
