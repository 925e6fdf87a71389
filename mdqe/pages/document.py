"""Self-contained HTML files: style, script and data are inside, and nothing else can be loaded or run.

Nothing that is read from a file becomes markup. Text of the page goes through `html.escape`. Data for a script is JSON
in an element that is never run, and contains no "<". If both should fail, the content security policy of the page lets
a browser run only the script and use only the style sheet with the listed hashes, and load nothing.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any


def asset(name: str) -> str:
    """The text of a data file in this package."""
    return (files("mdqe.pages") / name).read_text(encoding="utf-8")


def document(
    title: str, body: str, *, style: str, script: str = "", data: Any = None, attached: Sequence[str] = ()
) -> bytes:
    """An HTML file.

    Args:
        title: plain text.
        body: markup, in which all text from files is escaped.
        style: the style sheet.
        script: the script, which runs after the body; none if empty.
        data: JSON for the script, in the element with the id "data".
        attached: data URIs for the script, in elements with the ids "attached-0" and so on. The first is before the
            script and the others are after it, so that the script can show something while the others load.

    Raises:
        ValueError: `data` contains numbers that are not finite.
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
    uris = [f'<script type="text/plain" id="attached-{i}">{escape(uri)}</script>' for i, uri in enumerate(attached)]
    parts += uris[:1]
    if script:
        parts.append(f"<script>{script}</script>")
    parts += uris[1:]
    parts.append("</body>\n</html>\n")
    return "\n".join(parts).encode("utf-8", "replace")  # JSON can contain halves of characters, UTF-8 cannot


def _json(data: Any) -> str:
    """ASCII JSON that cannot end an element or open a comment."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()
