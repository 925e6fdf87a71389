"""The code blocks of the documentation: README.md and docs/*.md.

Blocks of python, bash or console are run. A hidden comment above a block can exclude it, with the reason:
`<!-- not run: REASON -->`. Another can create the names that the block uses, in Python: `<!-- before: CODE -->`.
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
    """Line number of its first line in the page."""
    language: str
    """python or bash."""
    code: str
    before: str
    """Python code that creates the names it uses."""
    reason: str
    """The reason why it is not run; empty if it is run."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text, found = page.read_text(), []
    said = {"before": "", "not run": ""}
    end = 0
    for part in _PART.finditer(text):
        if text[end : part.start()].strip():  # a comment applies to the block directly below it
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
    """Run a block of Python in the namespace `names`."""
    if block.before:
        exec(compile(block.before, f"{block.page} (before line {block.line})", "exec"), names)
    code = "\n" * (block.line - 1) + block.code  # so that errors have the line numbers of the page
    exec(compile(code, str(block.page), "exec"), names)
