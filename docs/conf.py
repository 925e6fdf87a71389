"""Configuration of the documentation site: `sphinx-build -W --keep-going docs site`.

The build downloads nothing: no fonts, scripts or inventories. The pages are Markdown that GitHub also displays. For the
site, formulas become MathML, which browsers render themselves; the figure is inserted inline, so its links work; and
links to source files lead to the pages of these files.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxTranslator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # use these sources, whether or not the package is installed

from mdqe import __version__ as release  # noqa: E402

project, author, copyright = "MDQE", "The MDQE authors", "the MDQE authors"
version = release
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["assets", "_build"]

autodoc_default_options = {"members": True, "member-order": "bysource", "exclude-members": "training", "no-value": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes in a docstring are not listed again as members
default_role = "py:obj"  # single backticks: a link if the name is documented, otherwise plain code
suppress_warnings = ["ref.python"]  # names that several classes have are ambiguous

html_theme = "furo"
html_title = "MDQE"
html_static_path = ["assets/site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e6e", "color-brand-content": "#0b6e6e"},
    "dark_css_variables": {"color-brand-primary": "#5cc8c0", "color-brand-content": "#5cc8c0"},
}
copybutton_exclude = ".linenos, .gp, .go"


def render_inline(translator: SphinxTranslator, node: nodes.math) -> None:
    """Render an inline formula."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def render_block(translator: SphinxTranslator, node: nodes.math_block) -> None:
    """Render a displayed formula."""
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def page_of_source(app: Sphinx, path: str) -> str | None:
    """Return the site's page for a source file of the package, or None."""
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"_modules/{module.replace('.', '/')}" if module in getattr(app.env, "_viewcode_modules", {}) else None


def link_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Point links to source files at their pages, and insert the figure inline with its links."""
    here = posixpath.dirname(f"docs/{docname}")
    for link in list(doctree.findall(addnodes.download_reference)):
        page = page_of_source(app, posixpath.normpath(posixpath.join(here, link["reftarget"])))
        if page is not None:
            uri = app.builder.get_relative_uri(docname, page)
            link.replace_self(nodes.reference("", "", *link.children, internal=True, refuri=uri))
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith("figure.svg"):
            figure = ROOT / "docs" / "assets" / "figure.svg"

            def link_target(match: re.Match[str], figure: Path = figure) -> str:
                path = (figure.parent / match[1]).resolve().relative_to(ROOT).as_posix()
                page = page_of_source(app, path)
                if page is None:
                    raise ValueError(f"{figure.name} links to {path}, which has no page: add it to a page in docs/api")
                return f'href="{app.builder.get_relative_uri(docname, page)}"'

            inline = re.sub(r'href="([^"]+)"', link_target, figure.read_text())
            image.replace_self(nodes.raw("", f'<div class="drawing">{inline}</div>', format="html"))


def drop_placeholder(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Remove Python's placeholder docstrings of named-tuple fields."""
    if lines[:1] and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register everything with Sphinx."""
    app.add_html_math_renderer("mathml", (render_inline, None), (render_block, None))
    app.connect("autodoc-process-docstring", drop_placeholder)
    app.connect("doctree-resolved", link_sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
