from __future__ import annotations

import math
from dataclasses import replace

import pytest
from torch import nn

from ectorch.constrain.config import Config
from ectorch.constrain.lengths import free, isotonic
from ectorch.constrain.relaxation import Bracket, Categorical, Hard
from ectorch.errors import ConfigError, EctorchError

LINEAR, CONV, NORM = nn.Linear(2, 2), nn.Conv2d(1, 1, 1), nn.LayerNorm(2)


def settings(config, module_name, module, parameter):
    dimensions = 1 if parameter == "bias" else 2
    return config.for_parameter(module_name, module, parameter, dimensions)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("levels", 1),
        ("levels", 65537),
        ("levels", 8.5),
        ("levels", "33"),
        ("bias_levels", 0),
        ("bias_levels", None),
        ("relaxation", "brackets"),
        ("relaxation", None),
        ("relaxation", Bracket),  # the class in place of an object
        ("relaxation", object()),
        ("forward", "mean"),
        ("codebook", "uniform"),
        ("lengths", "isotone"),
        ("strength", -0.1),
        ("strength", "0.1"),
        ("bias", "float64"),
        ("reach", 0.0),
        ("reach", math.nan),
        ("reach", "3"),
        ("alpha_scale", -1.0),
        ("alpha_scale", math.nan),
        ("alpha_scale", math.inf),
        ("alpha_scale", "1"),
        ("keep_float", "no"),
        ("include", "fc*"),  # a pattern in place of a tuple of patterns
        ("include", nn.Linear),
        ("include", (nn.Linear(1, 1),)),
        ("exclude", (int,)),
        ("overrides", ["fc*"]),
        ("overrides", {"fc*": 5}),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(ConfigError, match=rf"^{field}\b"):
        Config(**{field: value})
    if field not in ("include", "exclude", "overrides"):
        with pytest.raises(ConfigError, match=rf"^overrides\['fc\*'\]: {field} = "):
            Config(overrides={"fc*": {field: value}})


def test_config_errors_are_value_errors_of_ectorch():
    assert issubclass(ConfigError, EctorchError)
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("field", ["level", "include", "exclude", "overrides"])
def test_an_unknown_override_is_named_with_what_is_known(field):
    with pytest.raises(ConfigError, match=rf"overrides\['a'\]: unknown {field}; known: .*levels"):
        Config(overrides={"a": {field: 3}})


@pytest.mark.parametrize("reach", [0.5, 3, math.inf])
@pytest.mark.parametrize("levels", [2, 65536])
def test_the_ends_of_the_ranges_are_allowed(levels, reach):
    assert Config(levels=levels, bias_levels=levels, reach=reach, alpha_scale=0).levels == levels


def test_types_and_patterns_include():
    config = Config(include=(nn.Linear, "norm.*"), bias="float16")
    own = replace(config, include=None)
    of_bias = replace(own, levels=own.bias_levels, reach=math.inf)
    assert settings(config, "fc", LINEAR, "weight") == own
    assert settings(config, "fc", LINEAR, "bias") == of_bias
    assert settings(config, "conv", CONV, "weight") is None
    assert settings(config, "norm", NORM, "weight") == own
    assert settings(config, "my.norm", NORM, "weight") is None


@pytest.mark.parametrize("pattern", ["net.fc", "net.f*", "*.weight", "net.fc.weight", "net.[ef]c"])
def test_patterns_match_the_module_or_the_full_name(pattern):
    assert settings(Config(include=(pattern,)), "net.fc", LINEAR, "weight") is not None
    assert settings(Config(include=(pattern,)), "head", CONV, "kernel") is None
    assert settings(Config(exclude=(pattern,)), "net.fc", LINEAR, "weight") is None


def test_a_parameter_of_the_model_itself_goes_by_its_own_name():
    assert settings(Config(include=("tokens",)), "", nn.Module(), "tokens") is not None


def test_exclude_goes_by_type_and_wins():
    config = Config(exclude=(nn.Conv2d,))
    assert settings(config, "a", CONV, "weight") is None
    assert settings(config, "a", LINEAR, "weight") is not None


def test_a_subclass_is_of_its_bases_type():
    class Mine(nn.Linear):
        pass

    assert settings(Config(), "fc", Mine(2, 2), "weight") is not None


def test_overrides_apply_in_order():
    config = Config(
        levels=5,
        overrides={
            "fc*": {"levels": 9, "alpha_scale": 0.5},
            "conv*": {"levels": 17},
            "fc2.*": {"levels": 33, "forward": "sampled"},
        },
    )

    def found(module):
        return settings(config, module, LINEAR, "weight")

    plain = replace(config, overrides={})
    assert found("head") == plain
    assert found("fc1") == replace(plain, levels=9, alpha_scale=0.5)
    assert found("fc2") == replace(plain, levels=33, alpha_scale=0.5, forward="sampled")


def test_keep_float_leaves_what_it_matches():
    config = Config(overrides={"fc*": {"keep_float": True}, "fc2": {"keep_float": False}})
    assert settings(config, "fc1", LINEAR, "weight") is None
    assert settings(config, "fc2", LINEAR, "weight") is not None
    assert settings(Config(keep_float=True), "fc1", LINEAR, "weight") is None


def test_a_float32_bias_stays_unless_an_override_says_so():
    config = Config(bias="float32", overrides={"head": {"bias": "grid"}})
    assert settings(config, "fc", LINEAR, "bias") is None
    assert settings(config, "head", LINEAR, "bias") is not None


def test_patterns_are_all_that_have_to_match():
    config = Config(include=(nn.Linear, "a"), exclude=("b",), overrides={"c": {}})
    assert config.patterns() == ["a", "b", "c"]


def test_a_relaxation_is_taken_by_name_or_as_it_is():
    mine = Bracket(free)
    assert Config().make_relaxation() == Bracket()
    assert Config(relaxation=mine).make_relaxation() is mine


def test_lengths_are_those_of_a_relaxation_given_by_name():
    assert Config(lengths="free").make_relaxation() == Bracket(free)
    assert Config(lengths=free).make_relaxation() == Bracket(free)
    hard = Config(relaxation="hard", lengths="isotonic", strength=0.5).make_relaxation()
    assert hard == Hard(isotonic, 0.5)
    assert Config(relaxation="categorical").make_relaxation() == Categorical()


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("strength", {"relaxation": "categorical", "strength": 0.5}),
        ("strength", {"strength": 0.05}),
        ("strength", {"relaxation": Hard(), "strength": 0.5}),
        ("lengths", {"relaxation": Bracket(), "lengths": "free"}),
        ("lengths", {"overrides": {"a": {"relaxation": Bracket(), "lengths": free}}}),
    ],
)
def test_what_a_relaxation_would_not_take_is_refused(field, settings):
    with pytest.raises(ConfigError, match=field):
        Config(**settings)


def test_another_relaxation_for_some_leaves_what_belongs_to_the_first():
    changes = {"a": {"relaxation": Bracket(free)}, "b": {"relaxation": "bracket"}}
    config = Config(relaxation="hard", strength=0.5, lengths="isotonic", overrides=changes)
    own = {at: config.for_parameter(at, nn.Linear(2, 2), "weight", 2) for at in "abc"}
    assert own["a"].make_relaxation() == Bracket(free)
    assert own["b"].make_relaxation() == Bracket(isotonic)
    assert own["c"].make_relaxation() == Hard(isotonic, 0.5)
