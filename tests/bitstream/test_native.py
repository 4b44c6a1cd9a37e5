import warnings

import pytest

from ectorch.bitstream import native


@pytest.fixture
def not_built(monkeypatch):
    monkeypatch.setattr(native, "module", None)
    native._warn.cache_clear()


def test_without_the_compiled_module_a_long_coding_warns_once(not_built):
    with pytest.warns(RuntimeWarning, match="plain Python, some hundred times slower"):
        assert native.compiled(1 << 20) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.compiled(1 << 20) is None


def test_a_short_coding_does_not_warn(not_built):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.compiled(100) is None
