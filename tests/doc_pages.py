"""The code on the pages of the documentation: README.md and docs/*.md.

A fenced block of python, bash or console is run, unless the line above it is a comment, which Markdown does not show,
with the reason why it cannot be: `<!-- not run: REASON -->`. What a block takes for granted, say tensors, is made by
Python code in a comment above it: `<!-- before: CODE -->`.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELLS = ("bash", "console", "sh", "shell")

_PART = re.compile(
    r"^ *<!-- (?P<kind>not run|before):\s(?P<said>.*?)\s?-->\n"
    r"|^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code."""

    page: Path
    line: int
    """Of its first line in the page."""
    language: str
    """python or bash."""
    code: str
    before: str
    """Python that makes what it takes for granted."""
    reason: str
    """Why it is not run; empty where it is."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text, found = page.read_text(), []
    said = {"before": "", "not run": ""}
    end = 0
    for part in _PART.finditer(text):
        if text[end : part.start()].strip():  # a comment is about the block that follows at once
            said = dict.fromkeys(said, "")
        end = part.end()
        if part["kind"]:
            said[part["kind"]] = " ".join(part["said"].split()) if part["kind"] == "not run" else part["said"]
            continue
        language = "bash" if part["language"] in SHELLS else part["language"]
        if language in ("python", "bash"):
            code = re.sub(rf"^{part['indent']}", "", part["code"], flags=re.MULTILINE)
            line = text.count("\n", 0, part.start("code")) + 1
            found.append(Block(page, line, language, code, said["before"], said["not run"]))
        said = dict.fromkeys(said, "")
    return found


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python with these names, which it may change."""
    if block.before:
        exec(compile(block.before, f"{block.page} (before line {block.line})", "exec"), names)
    code = "\n" * (block.line - 1) + block.code  # so that errors name the page's own line
    exec(compile(code, str(block.page), "exec"), names)
