import ast
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import ectorch as ec


def test_no_room_hides_a_public_name():
    for room in pkgutil.walk_packages(ec.__path__, "ectorch."):
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
