import io

import torch
from rich.console import Console

import ectorch as ec
from ectorch.bitstream import Reader
from ectorch.report.tables import inspect_table


def test_bytes_of_the_inspect_table_add_up_to_the_file(tmp_path):
    path = tmp_path / "a.ect"
    tensors = {
        "a": torch.tensor([0.0, 0.5, 0.0, 0.0]),
        "b": torch.zeros(3),
        "c": torch.zeros(3),
        "scalar": torch.tensor(7),
        "void": torch.empty(0, 4),
    }
    ec.save_file(tensors, path)
    console = Console(width=120, record=True, file=io.StringIO())
    with Reader(path) as reader:
        console.print(inspect_table(reader))
        sizes = [entry.size_bytes for entry in reader]
        assert sum(sizes) + reader.overhead_bytes == path.stat().st_size
    text = console.export_text()
    assert "alias b" in text
    assert "75.0 %" in text
    assert "0x4" in text
