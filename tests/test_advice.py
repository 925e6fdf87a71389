"""Commands, options and names that messages and pages tell a user to use exist.

The code blocks of the pages are run by tests/ecosystem/test_docs.py. This file tests what messages contain, and what
pages mention in a sentence. It finds both itself.
"""

import argparse
import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from doc_pages import PAGES, ROOT, blocks

import mdqe
from mdqe.cli import COMMANDS, _Parser, _parser

GAP = "GAP"  # replaces what an f-string inserts
SOURCES = [ROOT / "setup.py", *sorted((ROOT / "mdqe").rglob("*.py"))]
READ = [page for page in PAGES if page.is_file()]
# Options of torchrun, pip, nvcc and sphinx-build.
FOREIGN = {
    "--nproc-per-node", "--nnodes", "--standalone", "--no-build-isolation", "--force-reinstall", "--no-deps",
    "--keep-going", "--help", "--version",
}  # fmt: skip
DISTRIBUTIONS = {"pyav": "av", "gradio": "gradio"}  # names in messages that are not those of the distribution
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(rf"\bmdqe (?!{GAP})([a-z][a-z-]*)\b(?!:)([^\n`;]*)")


class NotParsed(Exception):
    """A command line that a parser refuses."""


def messages(source: str) -> Iterator[str]:
    """The strings of a program except docstrings. `GAP` replaces what f-strings and templates insert."""
    yield from (re.sub(r"\{\{.*?\}\}", GAP, text) for text in _strings(source))


def _strings(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def spans(page: Path) -> Iterator[str]:
    """The code inside the sentences of a page."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose))


@cache
def options() -> dict[str, set[str]]:
    """The options of each command."""
    actions = _parser()._actions
    commands = next(action for action in actions if isinstance(action, argparse._SubParsersAction)).choices
    return {name: set(parser._option_string_actions) for name, parser in commands.items()}


@cache
def script_options() -> set[str]:
    """The options of the examples and benchmarks."""
    files = [path for path in (ROOT / "examples").rglob("*.py") if "argparse" in path.read_text()]
    return {text for path in files for text in messages(path.read_text()) if OPTION.fullmatch(text)}


def commands_in(text: str) -> Iterator[str]:
    """The commands that a text names. Words after a command belong to it if one of them is an option."""
    for command in COMMAND.finditer(text):
        tail = re.split(r"[,.:]?\s(?:to|with|and|for)\s|[,.:)](?:\s|$)", command[2])[0]
        yield f"mdqe {command[1]}{tail if re.search(r'(^|[ ])-', tail) else ''}".strip()


def check_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command line. It may lack arguments, and placeholders may replace numbers."""

    def error(parser: argparse.ArgumentParser, message: str) -> None:
        raise NotParsed(f"{command}: {message}")

    monkeypatch.setattr(_Parser, "error", error)
    words = shlex.split(command, comments=True)[1:]
    wrong = set(OPTION.findall(command)) - options().get(words[0], set())  # a parser first reports what is missing
    if wrong:
        raise NotParsed(f"{command}: {wrong}")
    try:
        _parser().parse_args(words)
    except NotParsed as refused:
        placeholder = rf"'({GAP}|[A-Z]+)' is not|invalid .*: '?({GAP}|[A-Z]+)\b|expected one argument"
        if not re.search(rf"arguments are required|{placeholder}", str(refused)):
            raise
    except SystemExit as end:  # --help
        assert end.code == 0


def named(text: str) -> Iterator[str]:
    """The dotted names of the package in a text."""
    yield from (name.removesuffix(".py") for name in re.findall(r"(?<![\w/.@-])mdqe(?:\.[A-Za-z_]\w*)+(?![\w/])", text))


def exists(name: str) -> bool:
    """Whether a dotted name can be imported."""
    value = mdqe
    for i, part in enumerate(parts := name.split(".")[1:]):
        if not hasattr(value, part):
            path = ".".join(["mdqe", *parts[: i + 1]])
            if importlib.util.find_spec(path) is None:
                return False
            import_module(path)
        value = getattr(value, part)
    return True


def extras() -> dict[str, set[str]]:
    """The distributions that each extra installs, those of the extras that it includes among them."""
    project = (ROOT / "pyproject.toml").read_text()
    table = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.MULTILINE | re.DOTALL)[1]
    listed = {name: re.findall(r'"([^"]+)"', line) for name, line in re.findall(r"^(\w+) = \[(.*)\]", table, re.M)}

    def installed(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in listed[extra]:
            inner = re.fullmatch(r"mdqe\[(.*)\]", requirement)
            found |= (
                set().union(*map(installed, inner[1].split(","))) if inner else {re.match(r"[\w-]+", requirement)[0]}
            )
        return found

    return {name: installed(name) for name in listed}


# --- messages -------------------------------------------------------------------------------------------------------


def test_messages_name_extras_that_install_what_is_missing():
    known, found = extras(), 0
    for path in SOURCES:
        for text in messages(path.read_text()):
            for extra in re.findall(r"mdqe\[([\w,]+)\]", text):
                found += 1
                assert set(extra.split(",")) <= set(known), f"{path}: {text}"
                needed = re.search(r"needs? (\w+): pip install", text)
                if needed and needed[1] != GAP:
                    name = needed[1].lower()
                    assert DISTRIBUTIONS.get(name, name) in known[extra], f"{path}: {text}"
    assert found >= 10


def test_messages_name_options_of_their_command():
    """A message of another module than a command's may be printed by several commands."""
    known = set().union(*options().values()) | FOREIGN
    files = {f"{name.replace('-', '_')}{'_' * (name == 'import')}.py": name for name in COMMANDS}
    found = 0
    for path in SOURCES:
        own = options()[files[path.name]] if path.parent.name == "cli" and path.name in files else known
        for text in messages(path.read_text()):
            others = [options()[name] for name in COMMANDS if re.search(rf"\b{name}\b", text)]
            for option in OPTION.findall(text):
                found += 1
                assert option in own.union(FOREIGN, *others), f"{path}: {text}"
    assert found > 100


def test_commands_in_messages_are_parsed(monkeypatch):
    found = []
    for path in SOURCES:
        for text in messages(path.read_text()):
            if "mdqe" in text and path.name != "report.py":
                found += [command for command in commands_in(text) if " -" in command]
    for command in found:
        check_command(command, monkeypatch)
    assert len(found) > 15
    assert f"mdqe convert {GAP} -o FOLDER" in found


def test_paths_in_commands_are_quoted(tmp_path):
    """A message with a path that the shell would split names a command that can be copied."""
    for place in ("its folder", "its file"):
        folder = tmp_path / place / "it's mine"
        folder.mkdir(parents=True)
        (folder / "official.pth").touch()
        with pytest.raises((OSError, ValueError)) as raised:
            mdqe.MDQE.from_pretrained(folder if place == "its folder" else folder / "official.pth")
        command = re.search(r"mdqe convert .*", str(raised.value))[0]
        args = _parser().parse_args(shlex.split(command)[1:])
        assert args.checkpoint == folder / "official.pth"


def test_keywords_in_messages_are_parameters():
    """Such as `reset_classes=True`."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    known = {node.arg for node in nodes if isinstance(node, ast.arg)} | {"warn_only", "weights_only"}
    texts = [text for path in SOURCES for text in messages(path.read_text())]
    found = {keyword for text in texts for keyword in re.findall(r"\b([a-z_]+)=(?:True|False|None)\b", text)}
    assert {"reset_classes", "skip_bad"} <= found <= known


def test_names_in_messages_exist():
    texts = [text for path in SOURCES for text in messages(path.read_text()) if not re.fullmatch(r"mdqe[\w.]+", text)]
    found = {name for text in texts for name in named(text)}
    assert "mdqe.ClipTargets" in found
    assert [name for name in found if not exists(name)] == []


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_pages_name_commands_options_and_names_that_exist(page, monkeypatch):
    known = set().union(*options().values()) | script_options() | FOREIGN
    for span in spans(page):
        assert set(OPTION.findall(span)) <= known, span
        for command in commands_in(span) if span.startswith(("mdqe ", "torchrun ")) else ():
            check_command(command.replace("…", ""), monkeypatch)
        assert [name for name in named(span) if not exists(name)] == [], span
    for block in blocks(page):
        if block.language != "bash":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\$ ", "", line).strip()
            if re.match(r"mdqe |torchrun .* -m mdqe ", line):
                command = line[line.index("mdqe ") :].split(" && ")[0].split(" > ")[0].split(" | ")[0]
                check_command(command, monkeypatch)


def anchors(page: Path) -> set[str]:
    """The names that links give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READ, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or target.suffix != ".md" or heading in anchors(target), link


def test_pages_name_extras_that_exist():
    known = set(extras())
    for page in READ:
        for extra in re.findall(r"mdqe\[([\w,]+)\]|\"?\.\[([\w,]+)\]", page.read_text()):
            assert set("".join(extra).split(",")) <= known, page


def test_masks_of_other_models_become_finite_logits():
    """The expression that examples/link_frames.py advises, for exact zeros and ones of any type."""
    example = ROOT / "examples" / "link_frames.py"
    if not example.is_file():
        pytest.skip("the examples are not installed with the package")
    expression = re.search(r"`(masks\S*logit\(.*?\))`", example.read_text())[1]
    for dtype in (torch.bool, torch.float16, torch.bfloat16, torch.float32):
        masks = torch.zeros(2, 8, 8, dtype=dtype)
        masks[0, :4], masks[1, 4:] = 1, 1
        logits = eval(expression, {"masks": masks})
        assert logits.isfinite().all() and ((logits > 0) == masks.bool()).all()
        tracker = mdqe.ClipTracker(test_clip_length=1, iou_weight=0.0)
        ids = [tracker.update([t], torch.ones(2, 1), logits[:, None], 12 * torch.eye(2)).tolist() for t in range(2)]
        assert ids == [[0, 1], [0, 1]]
    with pytest.raises(ValueError):
        tracker.update([2], torch.ones(2, 1), masks.logit()[:, None], torch.eye(2))


# --- the tests of this file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("only safetensors can be loaded: mdqe convert GAP -o FOLDER", ["mdqe convert GAP -o FOLDER"]),
        ("trained by mdqe train on shapes", ["mdqe train"]),
        ("mdqe GAP: error: GAP", []),
        ("mdqe segment: error: no --videos", []),
        ("torchrun --nproc-per-node 8 -m mdqe segment --size 360", ["mdqe segment --size 360"]),
    ],
)
def test_commands_are_found(text, commands):
    assert list(commands_in(text)) == commands


@pytest.mark.parametrize(
    ("command", "parsed"),
    [
        ("mdqe convert GAP -o FOLDER", True),
        ("mdqe convert GAP --output-folder FOLDER", False),
        ("mdqe transform GAP -o FOLDER", False),
        ("mdqe train --steps N", True),
        ("mdqe train --steps many", False),
        ("mdqe evaluate results.json --data shapes extra", False),
    ],
)
def test_wrong_commands_are_refused(command, parsed, monkeypatch):
    if parsed:
        return check_command(command, monkeypatch)
    with pytest.raises(NotParsed):
        check_command(command, monkeypatch)


def test_wrong_names_are_found():
    assert exists("mdqe.losses.InterInstanceMaskLoss") and exists("mdqe.results.rle")
    assert not exists("mdqe.losses.InstanceMaskLoss") and not exists("mdqe.result")
    assert list(named("see mdqe.losses.Criterion; not mdqe.git, https://mdqe.org or a/mdqe.x")) == [
        "mdqe.losses.Criterion", "mdqe.git",
    ]  # fmt: skip
