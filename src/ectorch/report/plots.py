"""The picture of a run: weights before and after, and where the bytes went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

from ectorch.bitstream import Reader, write_atomic
from ectorch.report.figures import STYLE, draw_histogram, draw_sizes, drawn
from ectorch.report.matrices import float_tensors, largest_matrices
from ectorch.report.text import printable

_MOST_PANELS = 5


@matplotlib.rc_context(STYLE)
def plot_run(model: Path, before: Path, result: dict[str, Any], path: Path) -> None:
    """Draw ``path`` (a PNG).

    Args:
        model: the ``.ect`` file.
        before: the float network's (.safetensors).
        result: of the run, for the title.
    """
    matrices = largest_matrices(model, _MOST_PANELS)
    floats = float_tensors(before, matrices)
    columns = len(matrices) + 1
    figure, [axes] = plt.subplots(
        1, columns, figsize=(3.6 * columns, 3.6), layout="constrained", squeeze=False
    )
    for axis, (tensor, values) in zip(axes, matrices.items(), strict=False):
        draw_histogram(axis, tensor, values, floats.get(tensor), lambda artist, words: None)
    axes[0].set_ylabel("share of the weights: float, and in the file")
    with Reader(model) as reader:
        sizes = {entry.name: entry.size_bytes for entry in reader}
        rest = reader.overhead_bytes
    draw_sizes(axes[-1], sizes, rest, lambda artist, words: None)
    figure.suptitle(
        printable(f"{result['name']} on {result['data']}") + f": {result['float_bytes']:,} to "
        f"{result['file_bytes']:,} bytes (x{result['ratio']:.0f}), {result['evaluated_on']} error "
        f"{result['float_error_percent']:.2f} % to {result['decoded_error_percent']:.2f} %"
    )
    write_atomic(path, drawn(figure, "png", dpi=120, facecolor="white"))
