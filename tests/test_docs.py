"""The pages say what is so: code of every equation, keys of recipes, names, commands, rooms."""

import importlib
import itertools
import pkgutil
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

import ectorch as ec
from ectorch.experiments.augment import Augment
from ectorch.experiments.data import DATA_SETS
from ectorch.experiments.distill import Distill
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import ConstrainStage, Recipe, parse_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = (DOCS / "method.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
RECIPES = (DOCS / "recipes.md").read_text()
REFERENCE = "\n".join(path.read_text() for path in sorted((DOCS / "reference").glob("*.md")))
SHOWN = re.findall(r"^::: (\S+)", REFERENCE, re.MULTILINE)  # what mkdocstrings puts there
ARCHITECTURE = (DOCS / "architecture.md").read_text()


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "mkdocs_hooks")
    return importlib.import_module


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_equation_has_a_source_and_its_code(row):
    _, source, code = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert source
    names = re.findall(r"`([\w.]+)`", code)
    assert names
    for name in names:
        assert pkgutil.resolve_name(f"ectorch.{name}")


def test_the_page_of_recipes_names_every_key_and_choice():
    keys = [f.name for table in (Recipe, ConstrainStage, Augment, Distill) for f in fields(table)]
    named = set(re.findall(r"`\[?([\w.-]+)\]?`", RECIPES))
    assert {*keys, *NETWORKS, *DATA_SETS} <= named


def test_its_defaults_are_those_of_recipes():
    defaults = {
        f.name: f.default
        for table in (Recipe, ConstrainStage)
        for f in fields(table)
        if f.default not in (MISSING, None) and not is_dataclass(f.default)
    }
    rows = re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", RECIPES, re.MULTILINE)
    told = {
        key.strip("`"): value.strip("`")
        for names, values in rows
        for key, value in zip(names.split(", "), values.split(", "), strict=False)
        if value.strip() and not value.startswith("0 for")
    }
    assert len(told) > 15
    for key, value in told.items():
        assert tomllib.loads(f"value = {value}")["value"] == defaults[key], key


def test_its_smallest_recipe_is_one():
    smallest = re.search(r"```toml\n(.*?)```", RECIPES, re.DOTALL)[1]
    assert parse_recipe(tomllib.loads(smallest)).constrain.alpha == 0.3


def test_the_reference_has_every_public_name_once():
    assert sorted(SHOWN) == sorted(set(SHOWN))
    assert {f"ectorch.{name}" for name in ec.__all__} <= set(SHOWN)


def test_the_reference_has_every_error():
    errors = {name for name, error in vars(ec.errors).items() if isinstance(error, type)}
    assert errors == {name.rpartition(".")[2] for name in SHOWN if name.endswith("Error")}


@pytest.mark.parametrize("name", SHOWN)
def test_what_the_reference_shows_is_there_and_documented(name):
    assert pkgutil.resolve_name(name).__doc__


def test_the_reference_has_every_command_and_option(hooks):
    commands, typer = hooks("commands"), importlib.import_module("typer.testing")
    from ectorch.cli import app

    assert commands.MARK in (DOCS / "reference/commands.md").read_text()
    sections = re.split(r"^## ectorch ", commands.reference(), flags=re.MULTILINE)[1:]
    listed = typer.CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for section in sections:
        name = section.split()[0]
        assert re.search(rf"\b{name}\b", listed)
        shown = typer.CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        options = set(re.findall(r"(?<!\S)--[a-z-]+", shown)) - {"--help"}
        assert options or "--" not in section
        assert set(re.findall(r"^- \*\*`(--[a-z-]+)`", section, re.MULTILINE)) == options, name
    assert len(sections) == len(app.registered_commands)


def test_the_page_of_rooms_names_every_module():
    modules = {
        module.name.removeprefix("ectorch.")
        for module in pkgutil.walk_packages(ec.__path__, "ectorch.")
        if not module.ispkg
    }
    named = set(re.findall(r"`([\w.]+)`", ARCHITECTURE))
    assert (
        not modules - named - {"bitstream._native", "constrain.kernels._compiled"}
    )  # the compiled one, which `native` opens
    rows = [line.split("|")[1] for line in ARCHITECTURE.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([\w.]+)`", row)} <= modules


def test_the_picture_of_floors_is_that_of_the_contracts(hooks):
    floors = hooks("floors")
    drawn = floors.picture(floors.floors_of((ROOT / "pyproject.toml").read_text()))
    assert floors.PICTURE.read_text() == drawn, "run python mkdocs_hooks/floors.py"


def pages_of_the_repository():
    return [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", pages_of_the_repository(), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.parametrize("page", pages_of_the_repository(), ids=lambda page: page.name)
def test_lists_and_tables_stand_apart(page):
    """From the paragraph before them: the site would take them as a part of it."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = ["", *text.splitlines()]
    for before, line in itertools.pairwise(lines):
        for starts in (r"\|", r"([-*]|\d+\.) "):
            if re.match(starts, line) and before.strip() and not before.startswith("<!--"):
                assert re.match(rf"{starts}|  ", before), line


def test_a_broken_link_of_the_site_is_found(hooks, tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a>'
        '<a href="https://pytorch.org/">4</a><script src="https://unpkg.com/x"></script>'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><a href="a.html">5</a>')
    assert hooks("links").faults(tmp_path) == [
        "a.html: b.html#gone has no such anchor",
        "a.html: c.html is not there",
        "a.html: loads https://unpkg.com/x",
    ]
