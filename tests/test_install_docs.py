"""What the page on installing says of the extras."""

import re
from importlib.metadata import requires

import pytest
from doc_pages import ROOT

PAGE = ROOT / "docs" / "install.md"


def brought() -> dict[str, set[str]]:
    """The extras, and what each brings by itself."""
    extras: dict[str, set[str]] = {}
    for line in requires("mdqe") or ():
        if found := re.fullmatch(r"([\w-]+)(?:\[([\w,-]+)\])?[^;]*; *extra *== *['\"]([\w-]+)['\"]", line):
            package, inner, extra = found.groups()
            extras.setdefault(extra, set()).update(inner.split(",") if package == "mdqe" else {package})
    return extras


def test_every_extra_is_in_the_table():
    if not PAGE.is_file():
        pytest.skip("the pages are not installed with the package")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE.read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(brought())
    assert set(names[: names.index("all")]) == brought()["all"], "all is all that stand above it"
