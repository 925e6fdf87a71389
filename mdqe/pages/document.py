"""HTML files that are whole: style, script and data inside, and no way to load or run anything else.

Nothing that is read from a file becomes markup. What stands in the page's text went through `html.escape`; what a
script needs is JSON in an element that is never run, with no "<" in it. Should both fail, the page's content security
policy lets a browser run the one script and use the one style sheet whose hashes it names, and fetch nothing.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any


def asset(name: str) -> str:
    """The text of a data file beside this module."""
    return (files("mdqe.pages") / name).read_text(encoding="utf-8")


def document(
    title: str, body: str, *, style: str, script: str = "", data: Any = None, attached: Sequence[str] = ()
) -> bytes:
    """An HTML file.

    Args:
        title: plain text.
        body: markup, in which all foreign text is escaped.
        style: of one style sheet.
        script: run after the body; none where empty.
        data: JSON for the script, in the element with the id "data".
        attached: data URIs for the script, in elements with the ids "attached-0" and so on. The first stands before the
            script, the others after it: it can show something while they are still loading.

    Raises:
        ValueError: numbers in `data` that JSON does not have.
    """
    policy = f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src '{_hash(style)}'"
    if script:
        policy += f"; script-src '{_hash(script)}'"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>\n</head>\n<body>",
        body,
    ]
    if data is not None:
        parts.append(f'<script type="application/json" id="data">{_json(data)}</script>')
    held = [f'<script type="text/plain" id="attached-{i}">{escape(uri)}</script>' for i, uri in enumerate(attached)]
    parts += held[:1]
    if script:
        parts.append(f"<script>{script}</script>")
    parts += held[1:]
    parts.append("</body>\n</html>\n")
    return "\n".join(parts).encode("utf-8", "replace")  # JSON can hold halves of characters, which UTF-8 cannot


def _json(data: Any) -> str:
    """ASCII JSON that ends no element and opens no comment."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
