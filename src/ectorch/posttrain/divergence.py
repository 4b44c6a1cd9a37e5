"""How far the outputs of two networks are apart, example by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from ectorch.errors import ConfigError

Output = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Divergence:
    """A distance of outputs, and draws whose gradients have its curvature.

    Attributes:
        between: of an output and a reference, both (..., features): (...,) distances.
        draw: of an output (..., features), a scalar; the mean square of its gradient by the output,
            over draws, is twice the distance's curvature (Gauss-Newton, or Fisher's matrix).
    """

    between: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator], Tensor]


def divergence(name: str) -> Divergence:
    """One of `DIVERGENCES` by its name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in DIVERGENCES:
        raise ConfigError(f"divergence = {name!r}: expected one of {', '.join(DIVERGENCES)}")
    return DIVERGENCES[name]


def first_output(output: Any) -> Tensor:
    """The first tensor of floats in what a network gives.

    Raises:
        ConfigError: when there is none.
    """
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise ConfigError(
        "the network gives no tensor of floats: say what to compare, output=lambda given: ..."
    )


def _kl(output: Tensor, reference: Tensor) -> Tensor:
    given, expected = F.log_softmax(output.float(), -1), F.log_softmax(reference.float(), -1)
    return F.kl_div(given, expected, log_target=True, reduction="none").sum(-1)


def _draw_label(output: Tensor, generator: torch.Generator) -> Tensor:
    likely = F.log_softmax(output.float(), -1).reshape(-1, output.shape[-1])
    label = torch.multinomial(likely.detach().exp().cpu(), 1, generator=generator)
    return likely.gather(1, label.to(likely.device)).sum()


def _squares(output: Tensor, reference: Tensor) -> Tensor:
    return (output.float() - reference.float()).square().mean(-1)


def _draw_normal(output: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(output.shape, generator=generator).to(output.device)
    return (output.float() * drawn).sum()


def _cosine(output: Tensor, reference: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(output.float(), reference.float(), dim=-1)


def _draw_direction(output: Tensor, generator: torch.Generator) -> Tensor:
    return _draw_normal(F.normalize(output.float(), dim=-1), generator)


DIVERGENCES = {
    "mse": Divergence(_squares, _draw_normal),
    "kl": Divergence(_kl, _draw_label),
    "cosine": Divergence(_cosine, _draw_direction),
}
