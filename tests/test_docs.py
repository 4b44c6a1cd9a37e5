"""The pages say what is so: code of every equation, every key of a recipe with its default."""

import pkgutil
import re
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest

from ectorch.experiments.augment import Augment
from ectorch.experiments.data import DATA_SETS
from ectorch.experiments.distill import Distill
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import ConstrainStage, Recipe, parse_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "method.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
RECIPES = (DOCS / "recipes.md").read_text()


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
