"""Whether torch transforms what is computed: kernels then give way to the plain torch they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp) or forward-mode differentiation is at work.

    A kernel is an autograd Function that works in place and knows its first gradient only.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiated_again(*grads: Tensor | None) -> bool:
    """Whether a kernel's backward is itself transformed: ``create_graph``, ``is_grads_batched``."""
    if torch.compiler.is_compiling():
        return False
    batched = torch._C._functorch.is_legacy_batchedtensor
    return (
        torch.is_grad_enabled()
        or transformed()
        or any(grad is not None and batched(grad) for grad in grads)
    )


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


def clamp_(tensor: Tensor, low: float, high: float) -> Tensor:
    """``tensor.clamp_(low, high)``, for which vmap has no rule."""
    return F.hardtanh_(tensor, low, high)
