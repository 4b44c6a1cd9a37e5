"""The method page names the code of every equation; the names lead somewhere."""

import pkgutil
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/method.md").read_text()
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_equation_has_a_source_and_its_code(row):
    _, source, code = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert source
    names = re.findall(r"`([\w.]+)`", code)
    assert names
    for name in names:
        assert pkgutil.resolve_name(f"ectorch.{name}")
