"""What README.md and docs/ print runs, parses and exists."""

import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path

import click
import pytest
import shallow

import nst_jax
from nst_jax.apps.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKDOWN = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md"))]
MARKDOWN += [ROOT / "examples" / "README.md", ROOT / "weights" / "README.md"]
FENCED = re.compile(r"^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page, language):
    """The code blocks of a page, but for those marked no-run."""
    return [
        code
        for info, code in FENCED.findall(page.read_text())
        if info.split()[:1] == [language] and "no-run" not in info
    ]


def prose(page):
    return FENCED.sub("", page.read_text())


def inline_code(page):
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.usefixtures("unchecked")  # Users run the pages without checks of annotations.
@pytest.mark.extended
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_the_python_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NST_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NST_JAX_OFFLINE", "1")
    for setting, layers in shallow.LAYERS.items():
        monkeypatch.setitem(nst_jax.Settings.__init__.__kwdefaults__, setting, layers)
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"<{name(page)}, block {number}>", "exec"), namespace)


def parse(words):
    """Parse the words after ``nst-jax``; a wrong option or argument is a usage error."""
    command = main
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words:
        command.make_context("nst-jax", words).close()


def test_every_command_parses():
    lines = [line for page in MARKDOWN for code in blocks(page, "sh") for line in code.splitlines()]
    lines += [code for page in MARKDOWN for code in inline_code(page)]
    lines = [re.sub(r"^.*nst-jax (?=[a-z])", "", line) for line in lines if "nst-jax " in line]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert len(commands) > 30
    for words in commands:
        parse(words)


def test_every_command_of_the_gallery_parses(tmp_path):
    log = tmp_path / "commands"
    stub = tmp_path / "nst-jax"
    stub.write_text(
        f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >> {log}\necho >> {log}\n'
    )
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = ROOT / "docs" / "gallery.sh"
    subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment, check=True)
    commands = [words.split("\n") for words in log.read_text().strip().split("\n\n")]
    images = {words[words.index("-o") + 1] for words in commands}
    assert len(images) == len(commands) > 10
    for words in commands:
        parse(words)


def test_every_option_exists():
    def options(command):
        if isinstance(command, click.Group):
            return {flag for child in command.commands.values() for flag in options(child)}
        return {flag for param in command.params for flag in param.opts}

    found = options(main) | {"--help"}
    named = {code.split()[0] for page in PAGES for code in inline_code(page) if code[:2] == "--"}
    assert len(named) > 15
    assert named <= found


def resolve(dotted):
    """Import a module, or get an attribute of the deepest module."""
    module, _, attribute = dotted.rpartition(".")
    try:
        return import_module(dotted)
    except ModuleNotFoundError:
        return getattr(resolve(module), attribute)


def test_every_name_of_the_package_exists():
    code = [code for page in [*PAGES, ROOT / "CONTRIBUTING.md"] for code in inline_code(page)]
    names = {
        match for text in code for match in re.findall(r"(?<![.\w])nst_jax(?:\.\w+)+(?!/)", text)
    }
    names = {name for name in names if not name.endswith((".py", ".jpg"))}
    assert len(names) > 20
    for dotted in sorted(names):
        resolve(dotted)


def test_every_script_exists():
    text = "\n".join(page.read_text() for page in MARKDOWN)
    scripts = set(re.findall(r"(?:benchmarks|nst_jax|examples|weights)/[\w/]+\.py", text))
    scripts |= set(re.findall(r"python (benchmarks/\w+)(?![\w.])", text))
    assert len(scripts) > 3
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", MARKDOWN, ids=name)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_table_of_contents():
    index = ROOT / "docs" / "index.md"
    links = set(re.findall(r"\]\(([^)]+\.md)\)", index.read_text()))
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert {link for link in links if not link.startswith("../")} == pages - {"index.md"}


def test_the_api_page_lists_every_name_of_the_package():
    page = (ROOT / "docs" / "api" / "nst_jax.rst").read_text()
    names = re.findall(r"^   (\w+)$|^\.\. auto\w+:: nst_jax\.(\w+)$", page, re.MULTILINE)
    assert sorted(max(pair) for pair in names) == sorted(nst_jax.__all__)


def test_the_readme_is_short_and_has_its_two_commands():
    readme = ROOT / "README.md"
    assert len(prose(readme).split()) <= 900
    infos = [info for info, _ in FENCED.findall(readme.read_text())]
    assert infos.count("sh run") == infos.count("sh test") == 1
