"""The documentation site: ``make docs`` builds it, with every warning an error and without a network."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout, with `benchmarks`, and not an installed package

import gpu_adam  # noqa: E402
from benchmarks.gpu_proof import readme  # noqa: E402


def gpu_figures(results: Path) -> str:
    """The table and the plots of the newest results of ``make gpu-proof``; that there are none, as long as there are none."""
    found = readme.newest(results)
    plots = sorted(results.glob(f"{found[0].stem}-*.png")) if found else []
    return "\n\n".join([readme.block(results), *(f"![](../benchmarks/results/{plot.name})" for plot in plots)])


project = "gpu_adam"
version = release = gpu_adam.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxcontrib.programoutput",
]
nitpicky = True
nitpick_ignore_regex = [("py:obj", r"torch\..*")]  # of another project, whose site a network would be needed for

# Docstrings: Google's style, names in single backticks. Their arguments' kinds are said in words, which say more than `Any` does.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_mock_imports = ["torch"]  # which gpu_adam.torch is built on: large, and its docstrings are not shown
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_attr_annotations = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80

# Pages.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
# Placed in the pages by {{ name }}.
myst_substitutions = {"gpu_figures": gpu_figures(ROOT / "benchmarks" / "results")}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"gpu_adam {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = html_show_copyright = False
html_math_renderer = "mathml"

os.environ["COLUMNS"] = "80"  # of what --help prints


# Formulas as MathML, which browsers draw by themselves: Sphinx's own renderers need a script from a network, or LaTeX.


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    text = node.astext()
    if "&" in text and r"\begin" not in text:  # which Sphinx's own renderers take for aligned equations
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    formula = tex2mathml(text, as_block=True)
    writer.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


# Text that is included from elsewhere in the repository keeps its links: to a page of the site where the file is one, else to the file.

PAGES = {
    ROOT / "benchmarks" / "ledger" / "LEDGER.md": ROOT / "docs" / "ledger.md",
    ROOT / "examples" / "paper" / "RESULTS.md": ROOT / "docs" / "paper.md",
    ROOT / "CHANGELOG.md": ROOT / "docs" / "changelog.md",
}


def _follow_links(app: Sphinx, included: Path, page: str, content: list[str]) -> None:
    source, target = (app.srcdir / included).resolve().parent, (app.srcdir / page).parent

    def follow(link: re.Match[str]) -> str:
        path = source / link[1]
        return f"]({os.path.relpath(PAGES.get(path, path), target)}"

    content[0] = re.sub(r"\]\((?!#|\w+:)([^)#]+)", follow, content[0])


def setup(app: Sphinx) -> None:
    """Register what is defined here."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    app.connect("include-read", _follow_links)
