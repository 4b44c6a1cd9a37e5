"""Products with relaxed weights: the forward of linear layers and convolutions.

They take their operands as kernels give them, in the dtype that autocast wants, and not as reads,
which stand for the Parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ectorch.constrain.kernels import cuda, ops
from ectorch.constrain.modules import Constrained, constraints
from ectorch.constrain.relaxation.base import nearest_together
from ectorch.constrain.transforms import transformed

_OPERANDS = frozenset(("weight", "bias"))
_DELTA = 1e-4  # smallest variance of an output, relative to the mean variance of its layer

Multiply = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]


def product_forward(base: type[nn.Module]) -> Callable[[nn.Module, Tensor], Tensor] | None:
    """A ``forward`` for the constrained subclass of ``base``, where that only multiplies."""
    plain: Callable[..., Tensor] = base.forward
    multiply = _MULTIPLY.get(plain)
    if multiply is None:
        return None

    def forward(self: nn.Module, input: Tensor) -> Tensor:
        if base.forward is not plain:  # somebody has replaced it
            return base.forward(self, input)  # type: ignore[no-any-return]
        dtype = _autocast_dtype(input)
        if self.training and "weight" in constraints(self):
            handle = Constrained(self, "weight")
            if handle.takes_moments:
                return _noisy(self, multiply, input, handle, _operand(self, "bias", dtype))
        weight, bias = _operands(self, dtype)
        return multiply(self, input, weight, bias)

    return forward


def _operands(module: nn.Module, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, both at once where one relaxation rounds them."""
    if constraints(module).keys() >= _OPERANDS:
        handles = [Constrained(module, name) for name in ("weight", "bias")]
        weight, bias = handles
        if weight.takes_nearest and bias.takes_nearest and weight.relaxation == bias.relaxation:
            of = [(handle.variables(), handle.codebook(dtype)) for handle in handles]
            rounded = nearest_together(weight.relaxation, of)
            return rounded[0], rounded[1]
    found, bias_found = _operand(module, "weight", dtype), _operand(module, "bias", dtype)
    assert found is not None
    return found, bias_found


def _operand(module: nn.Module, name: str, dtype: torch.dtype | None) -> Tensor | None:
    if name in constraints(module):
        return Constrained(module, name).relaxed(dtype)
    found: Tensor | None = getattr(module, name)
    return found


def _autocast_dtype(input: Tensor) -> torch.dtype | None:
    """That autocast turns the operands of a product into."""
    if not isinstance(input, Tensor):  # but what stands for one in a trace
        return None
    kind = input.device.type
    if input.dtype == torch.float64 or not torch.amp.is_autocast_available(kind):
        return None
    if not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def _noisy(
    module: nn.Module, multiply: Multiply, input: Tensor, weight: Constrained, bias: Tensor | None
) -> Tensor:
    """Local reparametrisation (Kingma et al., 2015): noise on outputs in place of on weights."""
    relaxation = weight.relaxation
    assert relaxation is not None
    mean, variance = relaxation.moments(weight.variables(), weight.codebook())
    output = multiply(module, input, mean, bias)
    noise = _Noise.like(output)

    def deviation(input: Tensor, variance: Tensor) -> Tensor:
        spread = multiply(module, input.square(), variance, None)
        return noise.scaled(
            spread, _DELTA * spread.detach().mean() + torch.finfo(spread.dtype).tiny
        )

    if not _recomputes(input):
        return output + deviation(input, variance)
    again: Tensor = checkpoint(
        deviation, input, variance, use_reentrant=False, preserve_rng_state=False
    )
    return output + again


@dataclass(frozen=True)
class _Noise:
    """Standard normal, by a seed where there are kernels for it, else as it is.

    Drawn before what is recomputed on the way back, which gets the same numbers.
    """

    drawn: Tensor
    is_seed: bool

    @classmethod
    def like(cls, output: Tensor) -> _Noise:
        if cuda.serves(output) and not transformed():
            return cls(torch.randint(2**62, (1,), device=output.device), True)
        return cls(torch.randn_like(output), False)

    def scaled(self, spread: Tensor, floor: Tensor) -> Tensor:
        if self.is_seed:
            return ops.deviate(spread, floor, self.drawn)
        return self.drawn * torch.maximum(spread, floor).sqrt()


def _recomputes(input: Tensor) -> bool:
    """Whether memory is dearer than a third product: tensors of the output's size are not kept."""
    return input.device.type != "cpu" and not transformed()


def _convolve(module: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = module._conv_forward(input, weight, bias)
    return output


def _multiply(module: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(input, weight, bias)


_MULTIPLY: dict[Any, Multiply] = {
    nn.Linear.forward: _multiply,
    **{kind.forward: _convolve for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
}
