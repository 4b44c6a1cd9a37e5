import re

import pytest

from ectorch.errors import RecipeError
from ectorch.experiments.recipe import parse_recipe, read_recipe
from ectorch.experiments.shipped import shipped_recipes

TABLE = {
    "name": "x",
    "network": "lenet-300-100",
    "data": "digits",
    "pretrain": {"epochs": 1},
    "constrain": {"epochs": 1, "config": {"levels": 9}},
}


@pytest.mark.parametrize("path", shipped_recipes())
def test_every_recipe_that_ships_reads_by_its_name(path):
    assert read_recipe(path).constrain.make_config().levels >= 2


def test_a_users_own_code_is_named_and_not_imported():
    own = {"network": "no_such_module:make", "data": "a.b:Load.er"}
    recipe = parse_recipe(TABLE | own)
    assert (recipe.network, recipe.data) == ("no_such_module:make", "a.b:Load.er")


def test_changes_replace_values_by_their_dotted_key():
    recipe = read_recipe("lenet-300-100", {"seed": 7, "constrain.alpha": 2.5})
    assert (recipe.seed, recipe.constrain.alpha) == (7, 2.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "colour: unknown key"),
        ({"constrain": {"epochs": 1, "alhpa": 1.0}}, "constrain.alhpa: unknown key; alpha?"),
        ({"distill": {"techer": "a.ect"}}, "distill.techer: unknown key; teacher?"),
        (
            {"constrain": {"epochs": 1, "config": {"level": 3}}},
            "config.level: unknown key; levels?",
        ),
        ({"constrain": {"epochs": 1, "config": {"levels": 1}}}, "levels = 1"),
        ({"constrain": {"epochs": 1, "config": {"levels": "x"}}}, "constrain.config"),
        ({"pretrain": {"epochs": "many"}}, "pretrain.epochs"),
        ({"pretrain": {"epochs": -1}}, "pretrain.epochs"),
        ({"pretrain": {}}, "pretrain.epochs"),
        ({"network": "resnet-9000"}, "resnet-9000"),
        ({"network": "my net:make"}, "network: 'my net:make' is unknown, known: lenet-300-100"),
        ({"data": "imagenet"}, "imagenet"),
        ({"data": "digit"}, "data: 'digit' is unknown; digits?, known: mnist"),
        ({"distill": {"network": "x"}}, "distill.network: 'x' is unknown"),
        ({"threads": 0}, "threads"),
        (
            {"constrain": {"epochs": 1, "rise": 0.9, "fall": 0.9}},
            "constrain.rise + constrain.fall = 1.8: expected 1 at most",
        ),
        ({"reduce": {"epochs": 1, "rise": 0.8}}, "reduce.rise + reduce.fall = 1.1: expected 1"),
        (
            {"pretrain": {"epochs": 0}, "constrain": {"epochs": 0}},
            "epochs: 0 in every stage, nothing trains: give some, or a start",
        ),
        ({"target_bytes": True}, 'target_bytes: expected bytes, as 6000 or "6KB", not true'),
        ({"target_bytes": 0.5}, 'target_bytes: expected bytes, as 6000 or "6KB", not 0.5'),
        (
            {"target_bytes": "9 parsecs"},
            'target_bytes: expected bytes, as 6000 or "6KB", not "9 parsecs"',
        ),
        ({"target_ratio": True}, "target_ratio"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key(change, said):
    with pytest.raises(RecipeError, match=re.escape(said)):
        parse_recipe(TABLE | change)


@pytest.mark.parametrize("rise", [0.0, 0.1, 0.3, 0.6, 0.7, 0.9, 1.0])
def test_rise_and_fall_may_fill_the_stage(rise):
    stage = {"epochs": 1, "rise": rise, "fall": 1 - rise}
    assert parse_recipe(TABLE | {"constrain": stage}).constrain.rise == rise


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("pretain", "pretain: unknown key; pretrain?"),
        ("zzz", "zzz: unknown key, pretrain: missing"),
    ],
)
def test_a_table_of_another_name_is_named_with_what_it_may_be(table, said):
    other = {key: value for key, value in TABLE.items() if key != "pretrain"}
    with pytest.raises(RecipeError) as error:
        parse_recipe(other | {table: {"epochs": 1}})
    assert str(error.value) == said


def test_a_recipe_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(RecipeError, match=r"broken\.toml"):
        read_recipe(path)
    with pytest.raises(RecipeError, match=r"absent\.toml"):
        read_recipe(tmp_path / "absent.toml")
