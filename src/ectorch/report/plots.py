"""The picture of a run: weights before and after, and where the bytes went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from ectorch.bitstream import Reader, load_file
from ectorch.report.figures import draw_histogram, draw_sizes, largest_matrices

_MOST_PANELS = 5


def plot_run(
    model: Path, before: dict[str, np.ndarray], result: dict[str, Any], path: Path
) -> None:
    """Draw ``path`` (a PNG).

    Args:
        model: the ``.ect`` file.
        before: tensors of the float network by name, same shapes.
        result: of the run, for the title.
    """
    matrices = largest_matrices(load_file(model), _MOST_PANELS)
    columns = len(matrices) + 1
    figure, [axes] = plt.subplots(
        1, columns, figsize=(3.6 * columns, 3.6), layout="constrained", squeeze=False
    )
    for axis, (tensor, values) in zip(axes, matrices.items(), strict=False):
        draw_histogram(axis, tensor, values, before[tensor], lambda artist, words: None)
    axes[0].set_ylabel("share of the weights: float, and in the file", fontsize=9)
    with Reader(model) as reader:
        sizes = {entry.name: entry.size_bytes for entry in reader}
        sizes["names, index, checksums"] = reader.overhead_bytes
    draw_sizes(axes[-1], sizes, lambda artist, words: None)
    figure.suptitle(
        f"{result['name']} on {result['data']}: {result['float_bytes']:,} to "
        f"{result['file_bytes']:,} bytes (x{result['ratio']:.0f}), {result['evaluated_on']} error "
        f"{result['float_error_percent']:.2f} % to {result['decoded_error_percent']:.2f} %"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
