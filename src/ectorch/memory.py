"""The memory that tensors reach over, and which of them have some in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

Span = tuple[str, int, int]  # device, first byte, and the one past the last


def span(tensor: Tensor) -> Span | None:
    """The memory that a tensor reaches over; None where it has none of its own."""
    if is_lazy(tensor) or tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return None
    try:
        start = tensor.data_ptr()
    except RuntimeError:  # a tensor that others make up
        start = 0
    if not start:
        return None
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return str(tensor.device), start, start + (last + 1) * tensor.element_size()


def shared(tensors: Iterable[Tensor]) -> set[int]:
    """Ids of ``tensors`` that are among them twice, or reach over the same memory as another."""
    found: set[int] = set()
    seen: set[int] = set()
    spans: list[tuple[Span, int]] = []
    for tensor in tensors:
        if id(tensor) in seen:
            found.add(id(tensor))
        elif (own := span(tensor)) is not None:
            spans.append((own, id(tensor)))
        seen.add(id(tensor))
    farthest: tuple[Span, int] | None = None
    for (device, start, end), tensor_id in sorted(spans):
        if farthest is not None and farthest[0][0] == device and start < farthest[0][2]:
            found |= {farthest[1], tensor_id}
        if farthest is None or farthest[0][0] != device or end > farthest[0][2]:
            farthest = (device, start, end), tensor_id
    return found


def meet(one: Span | None, other: Span | None) -> bool:
    if one is None or other is None:
        return False
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
