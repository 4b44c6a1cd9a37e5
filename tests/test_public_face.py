import ast
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import ectorch as ec

MOST_NAMES = 19


def test_no_room_hides_a_public_name():
    for room in pkgutil.walk_packages(ec.__path__, "ectorch."):
        if not room.name.endswith("__main__"):
            import_module(room.name)
    for name in ec.__all__:
        assert not isinstance(getattr(ec, name), ModuleType), name


def test_type_checkers_see_every_public_name():
    tree = ast.parse(Path(ec.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert seen == set(ec.__all__)


def test_the_face_is_small_and_every_name_says_what_it_is():
    assert len(ec.__all__) <= MOST_NAMES
    for name in ec.__all__:
        assert inspect.getdoc(getattr(ec, name)), name


@pytest.mark.parametrize("name", ["FormatError", "remove_dead_units", "rate_bits", "save"])
def test_a_name_of_before_says_where_it_is(name):
    with pytest.warns(DeprecationWarning, match=f"from ectorch[.a-z]* import {name}$") as said:
        found = getattr(ec, name)
    statement = str(said[0].message).partition(": ")[2]
    names = {}
    exec(statement, names)
    assert names[name] is found


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'size_control'"):
        ec.size_control  # noqa: B018


def test_a_model_is_saved_and_loaded_as_tensors_are(tmp_path):
    net, fresh = nn.Linear(8, 4), nn.Linear(8, 4)
    size = ec.save_model(net, tmp_path / "model.ect")
    assert size == (tmp_path / "model.ect").stat().st_size
    assert ec.save_file(net.state_dict(), tmp_path / "dict.ect") == size
    assert (tmp_path / "model.ect").read_bytes() == (tmp_path / "dict.ect").read_bytes()
    ec.load_model(fresh, tmp_path / "model.ect")
    assert torch.equal(fresh.weight, net.weight)
    with pytest.raises(ec.EctorchError, match=r"save_model: expected a torch.nn.Module"):
        ec.save_model(net.state_dict(), tmp_path / "model.ect")
