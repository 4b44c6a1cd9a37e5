"""What stands beside a constrained parameter, and what follows from it.

The Parameter stays in ``_parameters`` under its own name, so optimizers, checkpoints and ties see
what they saw before; `ectorch.constrain.patch` makes reads give the relaxed tensor. Beside it stand
``<name>_log_gaps`` (the codebook), ``<name>_lengths`` (bits charged for each level) and
``<name>_bits`` (a weight's mean under them), whatever the relaxation trains, and once frozen
``<name>_symbols``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ectorch.constrain.codebook import Codebook, CodebookKind, initial_log_gaps
from ectorch.constrain.relaxation import Relaxation

LOG_GAPS = "log_gaps"
LENGTHS = "lengths"
BITS = "bits"
SYMBOLS = "symbols"
CONSTRAINTS = "_ectorch_constraints"


@dataclass(frozen=True)
class Constraint:
    """The settings of one constrained parameter; its tensors are the module's.

    Attributes:
        relaxation: None rounds to float16 and has no rate.
        extra: names of what the relaxation trains beside the parameter.
        trained: while symbols are frozen, names of the `variables` that trained before.
    """

    relaxation: Relaxation | None
    forward: str = "nearest"
    codebook: CodebookKind = "grid"
    levels: int = 2
    reach: float = math.inf
    keep_grid: bool = False
    alpha_scale: float = 1.0
    extra: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """Suffixes of the tensors that may stand beside the parameter."""
        if self.relaxation is None:
            return ()
        return (LOG_GAPS, LENGTHS, BITS, SYMBOLS, *self.extra)


def constraints(module: nn.Module) -> dict[str, Constraint]:
    """The constrained parameters of ``module`` itself, by name."""
    found: dict[str, Constraint] = module.__dict__.get(CONSTRAINTS, {})
    return found


def latent_names(names: Collection[str]) -> list[str]:
    """Those of a state dict's ``names`` whose tensors train, beside a codebook, on no level yet."""
    added = [f"_{suffix}" for suffix in (LOG_GAPS, LENGTHS, BITS)]
    return [name for name in names if all(f"{name}{suffix}" in names for suffix in added)]


def codebook(module: nn.Module, name: str) -> Codebook:
    """The present codebook of a constrained parameter; differentiable."""
    log_gaps = module._parameters[f"{name}_{LOG_GAPS}"]
    assert log_gaps is not None
    return Codebook.from_log_gaps(log_gaps, constraints(module)[name].levels)


def variables(module: nn.Module, name: str) -> dict[str, Tensor]:
    """What the relaxation of a parameter trains; "weight" is the Parameter itself."""
    constraint = constraints(module)[name]
    tensors = {"weight": module._parameters[name]}
    tensors |= {suffix: module._parameters[f"{name}_{suffix}"] for suffix in constraint.extra}
    return {suffix: tensor for suffix, tensor in tensors.items() if tensor is not None}


def frozen_symbols(module: nn.Module, name: str) -> Tensor | None:
    """The symbols of a parameter that `freeze` fixed, else None."""
    return module._buffers.get(f"{name}_{SYMBOLS}")


def trained_names(module: nn.Module, name: str) -> tuple[str, ...]:
    """Those of a parameter's `variables` that train."""
    return tuple(key for key, tensor in variables(module, name).items() if tensor.requires_grad)


def freeze(module: nn.Module, name: str, trained: tuple[str, ...] | None = None) -> None:
    """Fix the hard decision; the codebook goes on training.

    Args:
        trained: `trained_names`, before others froze what they share with ``module``.
    """
    constraint = constraints(module)[name]
    if constraint.relaxation is None or frozen_symbols(module, name) is not None:
        return
    symbols = constraint.relaxation.symbols(variables(module, name), codebook(module, name))
    module.register_buffer(f"{name}_{SYMBOLS}", symbols.to(torch.int32))
    trained = trained_names(module, name) if trained is None else trained
    constraints(module)[name] = replace(constraint, trained=trained)
    for tensor in variables(module, name).values():
        tensor.requires_grad_(False)


def thaw(module: nn.Module, name: str) -> None:
    if module._buffers.pop(f"{name}_{SYMBOLS}", None) is not None:
        for suffix in constraints(module)[name].trained:
            variables(module, name)[suffix].requires_grad_()


@torch.no_grad()
def refresh_lengths(module: nn.Module, name: str) -> None:
    """Set the code lengths and their mean by the weights as they are now.

    The mean is NaN where weights or codebook are no numbers: `ectorch.workflow.penalty` asks it.
    """
    relaxation = constraints(module)[name].relaxation
    assert relaxation is not None
    book = codebook(module, name)
    trained = variables(module, name)
    counts = relaxation.counts(trained, book)
    lengths = relaxation.lengths(counts, book.zero)
    _buffer(module, name, LENGTHS).copy_(lengths)
    weight, log_gaps = trained["weight"], module._parameters[f"{name}_{LOG_GAPS}"]
    assert log_gaps is not None
    finite = 0.0 * sum(t.sum(dtype=torch.float64) for t in (weight, log_gaps))
    _buffer(module, name, BITS).copy_(counts @ lengths / max(weight.numel(), 1) + finite)


def relaxed_bits(module: nn.Module, name: str) -> Tensor:
    """() float64: the relaxed size of a parameter at the last refresh, its gradient as of now."""
    relaxation = constraints(module)[name].relaxation
    assert relaxation is not None
    with torch.no_grad():  # the rate would inflate the codebook
        book = codebook(module, name)
    trained, row = variables(module, name), _padding_row(module, name)
    if row is not None:  # which no loss trains, either
        for key, t in trained.items():
            axis = t.ndim - trained["weight"].ndim  # logits have levels first
            trained[key] = t.index_copy(axis, row, t.detach().index_select(axis, row))
    charge = relaxation.charge(trained, book, _buffer(module, name, LENGTHS))
    bits = _buffer(module, name, BITS).double() * trained["weight"].numel()
    return bits + (charge - charge.detach())


def _padding_row(module: nn.Module, name: str) -> Tensor | None:
    """(1,) int64: the row of an embedding that stands for no token, else None."""
    if name != "weight" or not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return None
    parameter = module._parameters[name]
    if module.padding_idx is None or parameter is None:
        return None
    return torch.tensor([module.padding_idx], device=parameter.device)


def _buffer(module: nn.Module, name: str, suffix: str) -> Tensor:
    buffer = module._buffers[f"{name}_{suffix}"]
    assert buffer is not None
    return buffer


def relaxed(module: nn.Module, name: str) -> Tensor:
    """What a read of the parameter gives: the hard tensor, or a random one while training so."""
    constraint = constraints(module)[name]
    if constraint.relaxation is None:
        return _round_to_half(variables(module, name)["weight"])
    book = codebook(module, name)
    symbols = frozen_symbols(module, name)
    if symbols is not None:
        return book.dequantize(symbols)
    trained = variables(module, name)
    if module.training and constraint.forward != "nearest":
        sampled = constraint.relaxation.sampled(trained, book)
        row = _padding_row(module, name)
        if row is None:
            return sampled
        nearest = constraint.relaxation.nearest(trained, book)
        return sampled.index_copy(0, row, nearest[row])
    return constraint.relaxation.nearest(trained, book)


@torch.no_grad()
def hard(module: nn.Module, name: str) -> Tensor:
    """The discrete tensor that `release` leaves: exactly codebook values, zero as +0.0."""
    constraint = constraints(module)[name]
    if constraint.relaxation is None:
        return _round_to_half(variables(module, name)["weight"])
    book = codebook(module, name)
    symbols = frozen_symbols(module, name)
    if symbols is None:
        symbols = constraint.relaxation.symbols(variables(module, name), book)
    return book.dequantize(symbols)


@torch.no_grad()
def mean(module: nn.Module, name: str) -> Tensor:
    """The expected tensor of the relaxation; once frozen, or without one, the hard tensor."""
    relaxation = constraints(module)[name].relaxation
    if relaxation is None or frozen_symbols(module, name) is not None:
        return hard(module, name)
    return relaxation.moments(variables(module, name), codebook(module, name))[0]


@torch.no_grad()
def restart(module: nn.Module, name: str, constraint: Constraint) -> None:
    """Start the codebook and the relaxation's variables from the present weight."""
    assert constraint.relaxation is not None
    weight = variables(module, name)["weight"].detach()
    log_gaps = module._parameters[f"{name}_{LOG_GAPS}"]
    assert log_gaps is not None
    log_gaps.copy_(starting_log_gaps(constraint, weight))
    fresh = constraint.relaxation.extra_variables(weight, codebook(module, name))
    for suffix, value in fresh.items():
        variables(module, name)[suffix].copy_(value)


def starting_log_gaps(constraint: Constraint, weight: Tensor) -> Tensor:
    c = constraint
    return initial_log_gaps(c.codebook, weight, c.levels, c.reach, c.keep_grid)


def _round_to_half(weight: Tensor) -> Tensor:
    most = torch.finfo(torch.float16).max
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    rounded = wide.clamp(-most, most).half().to(weight.dtype)
    return rounded + (weight - weight.detach())
