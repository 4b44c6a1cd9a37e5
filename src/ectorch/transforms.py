"""Whether torch transforms what is computed: kernels then give way to the plain torch they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp) or forward-mode differentiation is at work.

    A kernel is an autograd Function that works in place and knows its first gradient only.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiate(
    plain: Callable[..., Any], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """A kernel's gradients to ``inputs`` by its plain form; they can be differentiated again.

    Args:
        plain: gives one tensor for each of ``grads``, which are None where none arrived.
    """
    with torch.enable_grad():
        outputs = plain(*inputs)
    pairs = [(out, by) for out, by in zip(outputs, grads, strict=True) if by is not None]
    if not pairs:
        return (None,) * len(inputs)
    reached, arrived = zip(*pairs, strict=True)
    return torch.autograd.grad(reached, inputs, arrived, create_graph=True, allow_unused=True)
