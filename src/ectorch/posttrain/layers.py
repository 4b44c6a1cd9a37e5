"""Weights as matrices, and what they are multiplied by: of every layer that is known.

A weight is seen as ``groups`` matrices of (rows, columns), of which each multiplies (positions,
columns) inputs. Layers of other classes have no such reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

Inputs = Callable[[tuple[Any, ...], dict[str, Any], Any], Sequence[Tensor] | None]
"""Of a call's arguments, named ones and output: (positions, columns) for each group, or None."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_EXAMPLES = 16  # whose patches are laid out at once


@dataclass(frozen=True)
class Reading:
    """How a module reads one of its weights.

    Attributes:
        to_matrices: of the weight: (groups, rows, columns).
        from_matrices: its inverse, for a weight of the given shape.
        inputs: what each group is multiplied by.
        looks_up: whether rows are looked up, not multiplied: then inputs are one (positions,) int64
            of rows, and columns are those of the output.
        axis: of the output, from its end, along which rows lie (columns where it looks up); None
            where rows are not channels of the output.
    """

    to_matrices: Callable[[Tensor], Tensor]
    from_matrices: Callable[[Tensor, torch.Size], Tensor]
    inputs: Inputs
    looks_up: bool = False
    axis: int | None = None


def reading(module: nn.Module, name: str) -> Reading | None:
    """How ``module`` reads its weight ``name``; None where it is not known."""
    for kinds, read in _READINGS:
        if isinstance(module, kinds):
            return read(module, name)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf") and name == "weight":
        return Reading(
            _turned, _turned_back, _of_last, axis=-1
        )  # of transformers: a linear layer, turned
    return None


def _linear(module: nn.Module, name: str) -> Reading | None:
    return Reading(_as_one, _reshaped, _of_last, axis=-1) if name == "weight" else None


def _as_one(weight: Tensor) -> Tensor:
    return weight.reshape(1, len(weight), -1)


def _reshaped(matrices: Tensor, shape: torch.Size) -> Tensor:
    return matrices.reshape(shape)


def _turned(weight: Tensor) -> Tensor:
    return weight.T[None]


def _turned_back(matrices: Tensor, shape: torch.Size) -> Tensor:
    return matrices[0].T.contiguous()


def _of_last(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor]:
    x = given[0] if given else named["input"]
    return [x.reshape(-1, x.shape[-1])]


def _convolution(module: Any, name: str) -> Reading | None:
    if name != "weight":
        return None
    groups = module.groups

    def inputs(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor]:
        x = given[0] if given else named["input"]
        some = [_patches(module, part) for part in torch.split(_batched(module, x), _EXAMPLES)]
        return [torch.cat(each) for each in zip(*some, strict=True)]

    axis = -1 - len(module.kernel_size)
    return Reading(lambda w: w.reshape(groups, len(w) // groups, -1), _reshaped, inputs, axis=axis)


def _batched(module: Any, x: Tensor) -> Tensor:
    return x if x.ndim == len(module.kernel_size) + 2 else x[None]


def _patches(module: Any, x: Tensor) -> list[Tensor]:
    """For each group, what its weight is multiplied by at some of the positions."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    dims = len(module.kernel_size)
    for at in range(dims):
        reach = (module.kernel_size[at] - 1) * module.dilation[at] + 1
        x = x.unfold(2 + at, reach, module.stride[at])[..., :: module.dilation[at]]
    places = [0, *range(2, 2 + dims)]
    x = x.permute(*places, 1, *range(2 + dims, 2 + 2 * dims))  # example, place, channel, tap
    positions, channels = x.shape[: 1 + dims].numel(), x.shape[1 + dims]
    width = channels // module.groups * x.shape[2 + dims :].numel()
    picked = _some(positions, width)
    flat = x.reshape(positions, module.groups, width)
    return [*(flat if picked is None else flat[picked]).unbind(1)]


def _some(positions: int, columns: int) -> Tensor | None:
    """Neighbours tell the same: no more positions than moments of that many columns need."""
    most = max(64 * _EXAMPLES, 2 * columns)
    if positions <= most:
        return None
    drawn = torch.randperm(positions, generator=torch.Generator().manual_seed(positions))
    return drawn[:most].sort().values


def _transposed(module: Any, name: str) -> Reading | None:
    """A tap for a row: that neighbouring taps add up in one output is not seen."""
    if name != "weight":
        return None
    groups = module.groups

    def matrices(weight: Tensor) -> Tensor:
        return weight.reshape(groups, len(weight) // groups, -1).transpose(1, 2)

    def back(matrices: Tensor, shape: torch.Size) -> Tensor:
        return matrices.transpose(1, 2).reshape(shape)

    def inputs(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor]:
        x = _batched(module, given[0] if given else named["input"]).movedim(1, -1)
        return [*x.reshape(-1, groups, x.shape[-1] // groups).unbind(1)]

    return Reading(matrices, back, inputs)


def _embedding(module: nn.Module, name: str) -> Reading | None:
    def inputs(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor]:
        return [(given[0] if given else named["input"]).reshape(-1)]

    known = name == "weight"
    return Reading(_as_one, _reshaped, inputs, looks_up=True, axis=-1) if known else None


def _recurrent(module: Any, name: str) -> Reading | None:
    """Inputs of the first layer, and outputs of the last, which are the states that it had."""
    last = module.num_layers - 1
    for direction, suffix in enumerate(("", "_reverse")[: 1 + module.bidirectional]):
        if name == f"weight_ih_l0{suffix}":
            return Reading(_as_one, _reshaped, lambda given, named, output: [_values(given, named)])
        if name == f"weight_hh_l{last}{suffix}":

            def states(
                given: tuple[Any, ...], named: dict[str, Any], output: Any, at: int = direction
            ) -> list[Tensor]:
                out = output[0].data if isinstance(output[0], PackedSequence) else output[0]
                return [out.reshape(-1, out.shape[-1]).chunk(1 + module.bidirectional, 1)[at]]

            return Reading(_as_one, _reshaped, states)
    return None


def _values(given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    x = given[0] if given else named["input"]
    x = x.data if isinstance(x, PackedSequence) else x
    return x.reshape(-1, x.shape[-1])


def _cell(module: nn.Module, name: str) -> Reading | None:
    def inputs(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor] | None:
        if name == "weight_ih":
            return _of_last(given, named, output)
        state = given[1] if len(given) > 1 else named.get("hx")
        state = state[0] if isinstance(state, tuple) else state
        return None if state is None else [state.reshape(-1, state.shape[-1])]

    known = name in {"weight_ih", "weight_hh"}
    return Reading(_as_one, _reshaped, inputs) if known else None


def _attention(module: nn.Module, name: str) -> Reading | None:
    """Projections of query, key and value; that of the output is not called as a layer."""
    places = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}
    words = ("query", "key", "value")

    def inputs(given: tuple[Any, ...], named: dict[str, Any], output: Any) -> list[Tensor]:
        three = [given[at] if at < len(given) else named[word] for at, word in enumerate(words)]
        three = [x.reshape(-1, x.shape[-1]) for x in three]
        return three if name == "in_proj_weight" else [three[places[name]]]

    if name == "in_proj_weight":
        return Reading(lambda w: w.reshape(3, len(w) // 3, -1), _reshaped, inputs)
    return Reading(_as_one, _reshaped, inputs) if name in places else None


_READINGS: tuple[tuple[Any, Callable[[Any, str], Reading | None]], ...] = (
    (nn.Linear, _linear),
    (_CONVOLUTIONS, _convolution),
    (_TRANSPOSED, _transposed),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.MultiheadAttention, _attention),
)
