"""The picture of a run: weights before and after, and where the bytes went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ectorch.bitstream import Reader, load_file

_BINS = 121
_MOST_PANELS = 5  # matrices, the largest
_MOST_BARS = 16
_BEFORE, _AFTER, _OTHER = "#9aa5b1", "#c2410c", "#1d4ed8"


def plot_run(
    model: Path, before: dict[str, np.ndarray], result: dict[str, Any], path: Path
) -> None:
    """Draw ``path`` (a PNG).

    Args:
        model: the ``.ect`` file.
        before: tensors of the float network by name, same shapes.
        result: of the run, for the title.
    """
    after = load_file(model)
    matrices = [name for name, value in after.items() if value.ndim > 1]
    if len(matrices) > _MOST_PANELS:
        largest = sorted(matrices, key=lambda name: -after[name].size)[:_MOST_PANELS]
        matrices = [name for name in matrices if name in largest]
    figure, axes = plt.subplots(
        1, len(matrices) + 1, figsize=(3.6 * (len(matrices) + 1), 3.6), layout="constrained"
    )
    for axis, name in zip(axes, matrices, strict=False):
        _draw_weights(axis, name, before[name].ravel(), after[name].ravel())
    axes[0].set_ylabel("share of the weights")
    axes[0].legend(loc="upper right", fontsize=8)
    with Reader(model) as reader:
        _draw_bytes(axes[-1], reader)
    figure.suptitle(
        f"{result['name']} on {result['data']}: {result['float_bytes']:,} to "
        f"{result['file_bytes']:,} bytes (x{result['ratio']:.0f}), {result['evaluated_on']} error "
        f"{result['float_error_percent']:.2f} % to {result['decoded_error_percent']:.2f} %"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_weights(axis: Axes, name: str, before: np.ndarray, after: np.ndarray) -> None:
    reach = float(max(np.abs(after).max(), np.abs(before).max(), 1e-12))
    edges = np.linspace(-reach, reach, _BINS).tolist()
    share = np.full(len(before), 1 / len(before))
    axis.hist(before, edges, weights=share, color=_BEFORE, label="float, before")
    values, counts = np.unique(after, return_counts=True)
    axis.vlines(values, 1e-7, counts / len(after), color=_AFTER, lw=2, label="file, after")
    axis.plot(values, counts / len(after), "o", color=_AFTER, ms=3)
    axis.set_yscale("log")
    axis.set_ylim(0.3 / len(after), 2)
    axis.set_title(f"{name}: {np.mean(after == 0):.1%} zero", fontsize=9)
    axis.set_xlabel("value")


def _draw_bytes(axis: Axes, reader: Reader) -> None:
    sizes = {entry.name: entry.size_bytes for entry in reader} | {
        "names, index, CRC": reader.overhead_bytes
    }
    if len(sizes) > _MOST_BARS:
        kept = sorted(sizes, key=lambda name: -sizes[name])[: _MOST_BARS - 1]
        rest = sum(size for name, size in sizes.items() if name not in kept)
        sizes = {name: size for name, size in sizes.items() if name in kept} | {"others": rest}
    names = list(sizes)[::-1]
    bars = axis.barh(names, [sizes[name] for name in names], color=_OTHER)
    axis.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    axis.margins(x=0.2)
    axis.set_title("bytes of the file", fontsize=9)
    axis.tick_params(labelsize=8)
