import pkgutil
from importlib import import_module
from types import ModuleType

import ectorch as ec


def test_no_room_hides_a_public_name():
    for room in pkgutil.walk_packages(ec.__path__, "ectorch."):
        import_module(room.name)
    for name in ec.__all__:
        assert not isinstance(getattr(ec, name), ModuleType), name
