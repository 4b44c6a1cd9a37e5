import pytest
import safetensors.torch
import torch
from matplotlib import pyplot as plt

import ectorch as ec
from ectorch.report.plots import plot_run

RESULT = {
    "name": "tiny",
    "data": "none",
    "evaluated_on": "test",
    "float_bytes": 4000,
    "file_bytes": 100,
    "ratio": 40.0,
    "float_error_percent": 1.0,
    "decoded_error_percent": 2.0,
}


@pytest.fixture
def draw(tmp_path):
    """Draw the picture of a run that ended with these tensors; give its path."""

    def call(after):
        ec.save_file(after, tmp_path / "model.ect")
        before = {name: torch.randn(tensor.shape) for name, tensor in after.items()}
        safetensors.torch.save_file(before, tmp_path / "float.safetensors")
        picture = tmp_path / "report.png"
        plot_run(tmp_path / "model.ect", tmp_path / "float.safetensors", RESULT, picture)
        return picture

    return call


def test_a_picture_is_drawn_also_of_a_network_that_is_all_zero(draw):
    after = {"a.weight": torch.zeros(20, 30), "b.weight": torch.eye(5), "b.bias": torch.ones(5)}
    assert draw(after).stat().st_size > 10_000


def test_a_picture_of_many_tensors_stays_readable(draw):
    after = {f"{i}.{kind}": torch.eye(4 + i)[:, : 4 + i] for i in range(20) for kind in "ab"}
    height, width, _ = plt.imread(draw(after)).shape
    assert width < 8 * height
