"""What the site adds to the pages, which are plain Markdown that a code host shows too.

Cards and the sidebar come from the tables of index.md, links from the names in backticks,
signatures from the source, and inventories of other projects from inventories.toml.
"""

import ast
import inspect
import re
import textwrap
import tomllib
import zlib
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import nst_jax

ROOT = Path(__file__).parents[2]

API = [
    "nst_jax.losses.statistics",
    "nst_jax.losses",
    "nst_jax.optimize",
    "nst_jax.images",
    "nst_jax.networks.weights",
    "nst_jax.networks",
    "nst_jax.partitioning",
    "nst_jax.pipeline",
    "nst_jax",
]


def documented_names() -> dict[int, str]:
    """Map each public object to its name on the site, in the first module that exports it."""
    names = {}
    for module in map(import_module, API):
        names[id(module)] = module.__name__
        for name in module.__all__:
            value = getattr(module, name)
            names.setdefault(id(value), f"{module.__name__}.{name}")
            for field in getattr(value, "_fields", ()):
                getattr(value, field).__doc__ = None  # autodoc then skips what has no text
    return names


NAMES = documented_names()
SHORT_NAMES = {name.rpartition(".")[2]: name for name in reversed(NAMES.values()) if "." in name}


def documented_name(name: str) -> str | None:
    """Return where the site documents a public object, a member of it, or a module."""
    parts = name.split(".")
    value: Any = nst_jax
    page = found = None
    for i, part in enumerate(parts[1:], start=2):
        if isinstance(value, type):
            break
        if isinstance(value, ModuleType) and not hasattr(value, part):
            import_module(f"{value.__name__}.{part}")  # a name that does not exist ends the build
        value = getattr(value, part)
        if id(value) in NAMES:
            page = NAMES[id(value)]
            found = ".".join([page, *parts[i:]])
    return page if isinstance(value, ModuleType) else found  # a module is on the page of its folder


INVENTORIES = tomllib.loads((ROOT / "docs" / "inventories.toml").read_text())
OTHERS = {
    name.rpartition(".")[2]: name
    for other in INVENTORIES.values()
    for names in other["pages"].values()
    for name in names
}


def write_inventories(app: Sphinx, config: Config) -> None:
    """Make the inventories for intersphinx from inventories.toml, without a network."""
    for name, other in INVENTORIES.items():
        lines = [
            f"{x} py:class 1 {page.format(x)}#$ -\n"  # any role finds a class
            for page, names in other["pages"].items()
            for x in names
        ]
        header = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: \n# zlib\n"
        path = app.doctreedir / f"{name}.inv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header.encode() + zlib.compress("".join(lines).encode()))
        config.intersphinx_mapping[name] = (other["url"], str(path))


def add_cards_and_sidebar(app: Sphinx, docname: str, source: list[str]) -> None:
    """Make cards of the gallery of index.md, and toctrees of its other tables."""
    if docname == "docs/api":
        source[0] += toctree("Reference", ["api/nst_jax", "api/*"])
    if docname == app.config.root_doc:
        source[0] = re.sub(r"((?:^\|.*\n)+)", cards, source[0], count=1, flags=re.MULTILINE)
        for title, section in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", source[0], re.MULTILINE):
            rows = re.findall(r"^\| \[(.+?)\]\((.+?)\.\w+\)", section, re.MULTILINE)
            source[0] += toctree(title, [f"{name} <{page}>" for name, page in rows])


def toctree(title: str, pages: list[str]) -> str:
    """Return a hidden toctree."""
    return "\n".join(
        ["\n```{toctree}", ":hidden:", ":glob:", f":caption: {title}", *pages, "```\n"]
    )


def cards(table: re.Match[str]) -> str:
    """Turn a table with rows of images and rows of texts, in turns, into a grid of cards."""
    rows = [row.strip("| ").split(" | ") for row in table[1].splitlines() if "---" not in row]
    pairs = [zip(*pair, strict=True) for pair in zip(rows[::2], rows[1::2], strict=True)]
    items = [f":::{{grid-item-card}}\n{x}\n\n{y}\n:::" for pair in pairs for x, y in pair]
    return "\n".join(["::::{grid} 2 2 3 3", ":gutter: 2", "", *items, "::::\n"])


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make references of the names in backticks."""
    linked = nodes.reference | nodes.title | addnodes.pending_xref
    for node in list(doctree.findall(nodes.literal)):
        text = node.astext()
        is_name = re.fullmatch(r"(nst_jax|jax|optax|flax|numpy)(\.\w+)+", text) or (
            text in SHORT_NAMES and re.search(r"[A-Z_]", text)
        )
        if is_name and not isinstance(node.parent, linked):
            reference = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=text, refdoc=app.env.docname
            )
            node.replace_self(reference)
            reference += node


def signature_in_source(
    app: Sphinx, what: str, name: str, value: Any, *_: object
) -> tuple[str, str | None] | None:
    """Return a signature as its author wrote it: ``Float[Array, "h w 3"]`` and names of types."""
    if what == "module":
        return None
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    except (OSError, TypeError):
        return None
    if isinstance(tree, ast.FunctionDef):
        returns = tree.returns and ast.unparse(tree.returns).strip("'")
        return f"({arguments(tree)})", returns
    assert isinstance(tree, ast.ClassDef)
    for part in tree.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return f"({arguments(part)})", None
    if is_dataclass(value) or issubclass(value, tuple):
        return f"({', '.join(fields(tree, value))})", None
    return ("", None) if hasattr(value, "_is_protocol") else None


def arguments(function: ast.FunctionDef) -> str:
    """Return the arguments of a function, or of a method without ``self``."""
    return re.sub(r"^self(, )?", "", ast.unparse(function.args))


def fields(tree: ast.ClassDef, value: Any) -> list[str]:
    """Return the fields of a dataclass or named tuple, as arguments."""
    parts = [part for part in tree.body if isinstance(part, ast.AnnAssign)]
    for part in parts:
        if not isinstance(part.value, ast.Call):
            continue
        function = ast.unparse(part.value.func)
        if function == "setting":  # of `nst_jax.Settings`; the first argument is the default
            part.value = part.value.args[0]
        elif function == "field":
            values = {keyword.arg: keyword.value for keyword in part.value.keywords}
            factory = ast.Constant(...) if "default_factory" in values else None
            part.value = values.get("default", factory)
    texts = [text for text in map(ast.unparse, parts) if not re.match("_|.*ClassVar", text)]
    return ["*", *texts] if texts and getattr(value, "__match_args__", None) == () else texts


def resolve_alias(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve another name of an object, and leave names of other projects to intersphinx."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    node["reftarget"] = re.sub(r"^np\.", "numpy.", OTHERS.get(target, target))
    name = documented_name(target) if target.startswith("nst_jax") else SHORT_NAMES.get(target)
    if name is None:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of public names that no page documents."""
    documented = {name for name, *_ in env.domains["py"].get_objects()}
    for name in sorted({*NAMES.values()} - documented):
        logging.getLogger(__name__).warning("%s is on no page of docs/api", name)


def setup(app: Sphinx) -> None:
    """Connect the functions; the sources start at the root, so that all links of the pages work."""
    app.srcdir = type(app.srcdir)(ROOT)
    app.connect("config-inited", write_inventories, priority=100)
    app.connect("source-read", add_cards_and_sidebar)
    app.connect("doctree-read", link_names)
    app.connect("autodoc-process-signature", signature_in_source)
    app.connect("env-check-consistency", check_names)
    app.connect("missing-reference", resolve_alias, priority=400)  # before intersphinx
