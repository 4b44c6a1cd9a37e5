"""Which kernels code, and that the twins are called alike."""

import inspect
import re
import warnings

import numpy as np
import pytest

from ectorch.bitstream import kernels, native, plain
from ectorch.errors import FormatError

FUNCTIONS = sorted(plain.__all__)


@pytest.fixture
def not_built(monkeypatch):
    monkeypatch.setattr(native, "module", None)
    kernels._warn.cache_clear()


def test_without_the_compiled_module_a_long_coding_warns_once(not_built):
    with pytest.warns(RuntimeWarning, match="plain Python, some hundred times slower"):
        assert kernels.kernels_for(1 << 20) is plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.kernels_for(1 << 20) is plain


def test_a_short_coding_does_not_warn(not_built):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.kernels_for(100) is plain


def test_the_fixture_chooses(twin):
    assert kernels.kernels_for(0) is twin


def test_the_protocol_has_the_functions_of_the_twins():
    assert sorted(name for name in vars(native.Kernels) if name[0] != "_") == FUNCTIONS


@pytest.mark.skipif(native.module is None, reason="built without a compiler")
def test_the_compiled_module_has_these_functions_and_no_other():
    assert sorted(n for n in vars(native.module) if n[0] != "_" and n.islower()) == FUNCTIONS


def parameters(function):
    """Their names: from the signature, which a compiled function has in its docstring only."""
    try:
        return [*inspect.signature(function).parameters]
    except ValueError:
        inside = re.fullmatch(r"\w+\((.*)\) -> .*", function.__doc__.splitlines()[0])[1]
        return re.findall(r"(\w+): ", inside)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_have_the_same_names(twin, name):
    expected = parameters(getattr(native.Kernels, name))[1:]
    assert parameters(getattr(twin, name)) == expected


def test_damage_is_a_format_error_that_names_the_tensor(twin):
    frequencies = np.empty(2, np.uint32)
    outside = pytest.raises(FormatError, match=r"^conv1: .*outside of the coded interval$")
    with outside as caught, kernels.naming("conv1"):
        twin.decode_table(b"\xff" * 6, frequencies)
    assert isinstance(caught.value.__cause__, native.DamagedStream)


def test_other_errors_pass():
    with pytest.raises(ValueError, match=r"^mine$"), kernels.naming("conv1"):
        raise ValueError("mine")
