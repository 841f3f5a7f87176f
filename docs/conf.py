"""How the documentation is built."""

from importlib.metadata import version as installed

project = "sealedhealth"
author = "The sealedhealth authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name for it
release = version = installed("sealedhealth")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "adr/template.md"]

html_theme = "furo"
html_title = "sealedhealth"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False

# Examples in docstrings are run by the doctest builder; those in pages by tests/docs.
doctest_test_doctest_blocks = "default"
doctest_global_setup = "import sealedhealth"
