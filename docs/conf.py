"""The documentation site: ``sphinx-build -W --keep-going -b html docs OUT``."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("site")))

project = html_title = "nst_jax"
version = release = version_of("nst-jax")
extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "nst_jax_site",  # site/nst_jax_site.py
]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "*.md", "examples/*.md", "weights/*.md"]
exclude_patterns = [".*", "build", "dist", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tests/docs/test_notebooks.py runs the notebooks

default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the signatures come from the source
napoleon_attr_annotations = False
napoleon_custom_sections = [("Attributes", "params_style")]
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "navbar_persistent": []}
html_static_path = ["site/style.css"]
html_css_files = ["style.css"]
html_extra_path = ["site/index.html"]  # leads to docs/index.html
html_copy_source = False
