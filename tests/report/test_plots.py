import numpy as np
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


def test_a_picture_is_drawn_also_of_a_network_that_is_all_zero(tmp_path):
    after = {"a.weight": torch.zeros(20, 30), "b.weight": torch.eye(5), "b.bias": torch.ones(5)}
    ec.save_file(after, tmp_path / "model.ect")
    before = {name: np.random.default_rng(0).normal(size=t.shape) for name, t in after.items()}
    plot_run(tmp_path / "model.ect", before, RESULT, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_a_picture_of_many_tensors_stays_readable(tmp_path):
    after = {f"{i}.{kind}": torch.eye(4 + i)[:, : 4 + i] for i in range(20) for kind in "ab"}
    ec.save_file(after, tmp_path / "model.ect")
    before = {name: np.random.default_rng(0).normal(size=t.shape) for name, t in after.items()}
    plot_run(tmp_path / "model.ect", before, RESULT, tmp_path / "report.png")
    height, width, _ = plt.imread(tmp_path / "report.png").shape
    assert width < 8 * height
