"""A network that the penalty has killed, which its loss alone does not tell."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_NEAR_CHANCE = 0.95
_REMEDY = "a lower alpha (or a larger target) or a longer rise keeps it alive"


def collapse(
    tensors: Mapping[str, Tensor], error_percent: float = 0.0, classes: int = 2
) -> str | None:
    """Why a network of these hard ``tensors`` can tell nothing any more, and what to do; or None.

    Args:
        error_percent: where it is known.
        classes: that guesses are right about equally often on; of one nothing can be told.
    """
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and not tensor.any():
            return f"every weight of {name} is zero: {_REMEDY}"
    if classes > 1 and error_percent >= _NEAR_CHANCE * 100 * (1 - 1 / classes):
        return f"an error of {error_percent:.2f} % is that of chance: {_REMEDY}"
    return None
