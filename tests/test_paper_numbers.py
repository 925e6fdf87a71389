"""Numbers of the paper's sections, figures, equations and tables, in docstrings and on pages.

Every number must exist in the paper and must belong to the topic of the text that cites it. The topics of a source file
are its row in `FILES`. The topics of a paragraph, a list item or a table row follow from its words and from the nearest
heading that names a topic.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("Sec", "Fig", "Eq", "Table")
NAME = r"\b(?P<kind>Sec(?:tion)?|Fig(?:ure)?|Eq(?:uation)?|Table)s?\.?"
NUMBER = r"\d+(?:\.\d+)?[a-d]?(?![\w×])"
JOIN = r"\s*(?:–|-|,|and|to)\s*"
ONE = rf"(?:\({NUMBER}\)|{NUMBER})"
CITATION = re.compile(rf"{NAME}\s*(?P<numbers>{ONE}(?:{JOIN}{ONE})*)")

PAPER = (
    "Sec. 1, 2, 3, 3.1–3.4, 4, 4.1–4.3, 5; Fig. 1, 1a, 1b, 2, 2a, 2b, 3, 4, 5, 5a, 5b, 6; Eq. 1–7; "
    "Table 1, 1a, 1b, 1c, 1d, 2, 3, 4"
)
TOPICS = {
    "architecture": "Sec. 3.1, Fig. 1",
    "query initialisation": "Sec. 3.2, Fig. 1, Table 1a, 1b",  # its equations have no numbers
    "decoder": "Sec. 3.1, 3.2, Fig. 1, 2, Table 1a",
    "mask loss": "Sec. 3.3, Fig. 3, Eq. 1–6, Table 1c",
    "training": "Sec. 3.4",  # the total loss has no number
    "inference": "Sec. 3.4, Fig. 4, Eq. 7, Table 1d",
    "initial positions": "Fig. 5",
    "experiments": "Sec. 4, 4.1–4.3, Fig. 5, 6, Table 1–4",
}
FILES = {
    "mdqe/modeling/query_init.py": ["query initialisation"],
    "mdqe/modeling/decoder*.py": ["decoder"],
    "mdqe/modeling/preprocess.py": ["experiments"],
    "mdqe/modeling/*": ["architecture"],
    "mdqe/ops/attention.py": ["architecture", "decoder"],
    "mdqe/losses/mask*.py": ["mask loss"],
    "mdqe/losses/query_init.py": ["query initialisation"],
    "mdqe/losses/*": ["training", "experiments"],
    "mdqe/inference/views.py": ["initial positions"],
    "mdqe/video/overlay.py": ["initial positions"],
    "mdqe/inference/*": ["inference"],
    "mdqe/model.py": ["architecture", "training", "inference"],
    "mdqe/export/*": ["architecture"],
    "mdqe/data/*": ["training", "experiments"],
    "mdqe/training/*": ["training", "experiments"],
    "examples/ablation.py": ["experiments"],
    "examples/association.py": ["query initialisation", "experiments"],
}
WORDS = {
    "architecture": r"architecture|backbone|encoder|mask (head|feature|coefficient)|overview",
    "query initialisation": r"QueryInitializer|query init|query content|activation map|grid|association|init_(sem|reid)"
    r"|contrastive",
    "decoder": r"decoder|O2I|I2O|TCA|cross-attention|time weight",
    "mask loss": r"mask loss|repulsion|mask coefficient|neighbour|BCE|Dice|average over instances",
    "training": r"train|(?<!mask )loss",
    "inference": r"tracker|inference|similarity|online|memory|filter",
}


def numbers_in(text: str) -> list[tuple[str, str]]:
    """All citations of a text: "Sec. 3.1, 3.2 and Eq. 3–6" → ("Sec", "3.1"), ("Sec", "3.2"), ("Eq", "3"), …"""
    found = []
    for citation in CITATION.finditer(text):
        kind = next(kind for kind in KINDS if citation["kind"].startswith(kind))
        before = ""
        for join, number in re.findall(rf"({JOIN})?\(?({NUMBER})", citation["numbers"]):
            if before and join.strip() in ("–", "-", "to"):
                found += [(kind, skipped) for skipped in between(before, number)]
            found.append((kind, number))
            before = number
    return found


def between(first: str, last: str) -> list[str]:
    """What a range leaves out: "3", "6" → "4", "5"; "3.1", "3.4" → "3.2", "3.3"."""
    head, dot, low = first.rpartition(".")
    return [f"{head}{dot}{n}" for n in range(int(low) + 1, int(last.removeprefix(head + dot)))]


def allowed(topics: list[str]) -> set[tuple[str, str]]:
    return {one for topic in topics for one in numbers_in(TOPICS[topic])}


def wrong_numbers(text: str, topics: list[str]) -> list[str]:
    """Numbers that the paper does not have or that are not about these topics. "Fig. 1" includes "Fig. 1a"."""
    found = numbers_in(text)
    if not found:
        return []
    paper, right = set(numbers_in(PAPER)), allowed(topics)
    return [
        f"{kind}. {number}"
        for kind, number in found
        if (kind, number) not in paper or not {(kind, number), (kind, number.rstrip("abcd"))} & right
    ]


def topics_in(text: str) -> list[str]:
    """The topics that a text names."""
    return [topic for topic, words in WORDS.items() if re.search(words, text, re.IGNORECASE)]


def wrong_in_source(path: str, text: str) -> list[str]:
    """Wrong numbers in a source file. Where a paragraph names some of the file's topics, these count."""
    topics = next((topics for pattern, topics in FILES.items() if fnmatch(path, pattern)), [])
    return [
        f"{path}: {number}"
        for part in re.split(r'\n\s*\n|"""', text)
        for number in wrong_numbers(part, [topic for topic in topics_in(part) if topic in topics] or topics)
    ]


def wrong_on_page(name: str, parts: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Wrong numbers in parts of a page, each with the headings above it; architecture and experiments fit anywhere."""
    wrong = []
    for text, headings in parts:
        above = next(filter(None, map(topics_in, headings)), [])
        topics = [*topics_in(text), *above, "architecture", "experiments"]
        numbers = wrong_numbers(text, topics if len(topics) > 2 else list(TOPICS))
        wrong += [f"{name}: {number} in {' '.join(text.split())[:80]!r}" for number in numbers]
    return wrong


def passages(page: str) -> Iterator[tuple[str, list[str]]]:
    """Paragraphs, list items and table rows of Markdown, each with the headings above it, the nearest first."""
    headings: list[str] = []
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for part in re.split(r"\n\s*\n|\n(?=[|#])|\n(?=\s*(?:[-*]|\d+\.) )", page):
        if heading := re.match(r"(#+) (.*)", part.strip()):
            headings = [*headings[: len(heading[1]) - 1], heading[2]]
        yield part, headings[::-1]


def labels(drawing: str) -> Iterator[tuple[str, list[str]]]:
    """Texts of the figure: each box with its lines, each other text with the heading before it."""
    heading = ""
    for box, text in re.findall(r'(<rect.*?</a>)|<text class="f-[hn]"[^>]*>([^<]*)<', drawing, re.DOTALL):
        if text and not numbers_in(text):
            heading = text
        yield " ".join(re.findall(r"<text[^>]*>([^<]*)<", box)) if box else text, [heading]


def test_citations_are_read():
    assert numbers_in("paper Sec. 3.1, 3.2, Fig. 2b") == [("Sec", "3.1"), ("Sec", "3.2"), ("Fig", "2b")]
    assert numbers_in("Eq. 3–6; Eq. (7)") == [("Eq", number) for number in "34567"]
    assert numbers_in("Sections 3.1 to 3.3, Tables 2 and 4") == [
        ("Sec", "3.1"), ("Sec", "3.2"), ("Sec", "3.3"), ("Table", "2"), ("Table", "4")
    ]  # fmt: skip
    assert numbers_in("Sec. 3.2, 14×14 cells; Fig.\n    5") == [("Sec", "3.2"), ("Fig", "5")]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("mdqe/modeling/decoder.py", "object to instance (paper Sec. 3.3)"),
        ("mdqe/modeling/decoder.py", "paper Fig. 3"),
        ("mdqe/modeling/query_init.py", "paper Sec. 3.2, Eq. 1-2"),
        ("mdqe/modeling/network.py", "the whole model (paper Fig. 2)"),
        ("mdqe/losses/mask.py", "paper Sec. 3.4, Eq. 3–6"),
        ("mdqe/losses/mask.py", "paper Eq. 3–7"),
        ("mdqe/losses/criterion.py", "the sum (paper Sec. 3.4, Eq. 7)"),
        ("mdqe/inference/session.py", "paper Sec. 3.5"),
        ("mdqe/model.py", "training minimises their sum (paper Sec. 3.4, Eq. 7)"),
        ("mdqe/files.py", "paper Sec. 3.1"),
    ],
)
def test_wrong_numbers_in_a_source_file_are_found(path, text):
    assert wrong_in_source(path, text)


@pytest.mark.parametrize(
    "page",
    [
        "| `O2IDecoderLayer` | decoding over a clip (paper Sec. 3.3) |",
        "# The mask loss\n\nIt has two terms (Sec. 3.4).",
        "## Query initialisation\n\n- peaks of a map (Eq. 1)",
        "Something (paper Sec. 3.5)",
    ],
)
def test_wrong_numbers_on_a_page_are_found(page):
    assert wrong_on_page("page", passages(page))


def test_numbers_in_source_files():
    wrong, cited = [], 0
    for path in sorted([*(ROOT / "mdqe").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]):
        text = path.read_text()
        cited += len(numbers_in(text))
        wrong += wrong_in_source(path.relative_to(ROOT).as_posix(), text)
    assert cited > 20
    assert not wrong, f"not in the paper, not about the file's topics, or no topics in FILES: {wrong}"


def test_numbers_on_pages():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong = [one for page in pages for one in wrong_on_page(str(page.relative_to(ROOT)), passages(page.read_text()))]
    assert not wrong, wrong


def test_numbers_in_the_figure():
    parts = list(labels((ROOT / "docs" / "assets" / "figure.svg").read_text()))
    assert sum(len(numbers_in(text)) for text, _ in parts) > 8
    assert not (wrong := wrong_on_page("figure.svg", parts)), wrong
