"""Recipes that ship: found by name, each with a line that says what it is and how long it takes."""

import re

import pytest

from ectorch.errors import RecipeError
from ectorch.experiments.shipped import described, find_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_says_what_it_is_and_how_long_it_takes(name):
    path = find_recipe(name)
    assert path.read_text().startswith("# ")
    said = described(path)
    assert len(said.what) > 20
    assert re.search(r"minutes?|hours?", said.time)


def test_a_file_of_that_name_comes_before_the_recipe_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("")
    assert not find_recipe("digits").is_absolute()


def test_a_name_that_is_none_is_told_what_is_near():
    with pytest.raises(RecipeError, match=r"no recipe of that name; lenet-300-100.*known: digits"):
        find_recipe("lenet-300")
