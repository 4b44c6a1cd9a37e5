"""What stands beside a constrained parameter in its module, and what follows from it.

The Parameter stays in ``_parameters`` under its own name, so optimizers, checkpoints and ties see
what they saw before; `ectorch.constrain.patch` makes reads give the relaxed tensor. Beside it stand
``<name>_log_gaps`` (the codebook), ``<name>_lengths`` (bits charged for each level) and
``<name>_bits`` (a weight's mean under them), whatever the relaxation trains, and once frozen
``<name>_symbols``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ectorch.constrain.codebook import Codebook, check_finite, initial_log_gaps
from ectorch.constrain.config import Config
from ectorch.constrain.relaxation import Relaxation

LOG_GAPS = "log_gaps"
LENGTHS = "lengths"
BITS = "bits"
SYMBOLS = "symbols"
CONSTRAINTS = "_ectorch_constraints"


@dataclass(frozen=True)
class Constraint:
    """How one parameter is constrained; its tensors are the module's.

    Attributes:
        config: that `Config.for_parameter` gave for this parameter.
        relaxation: None rounds to float16 and has no rate.
        extra: names of what the relaxation trains beside the parameter.
        trained: while symbols are frozen, names of the `Constrained.variables` that trained before.
    """

    config: Config = field(hash=False)
    relaxation: Relaxation | None
    extra: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """Suffixes of the tensors that may stand beside the parameter."""
        if self.relaxation is None:
            return ()
        return (LOG_GAPS, LENGTHS, BITS, SYMBOLS, *self.extra)


def constraints(module: nn.Module) -> dict[str, Constraint]:
    """The constraints of the parameters of ``module`` itself, by name."""
    found: dict[str, Constraint] = module.__dict__.get(CONSTRAINTS, {})
    return found


def constrained_in(module: nn.Module) -> list[Constrained]:
    """The constrained parameters of ``module`` itself."""
    return [Constrained(module, name) for name in constraints(module)]


def handle_of(module: nn.Module, name: str) -> Constrained | None:
    """The handle of ``module``'s own ``name``, if that is constrained."""
    return Constrained(module, name) if name in constraints(module) else None


def constrained_parameters(model: nn.Module) -> Iterator[Constrained]:
    """Every constrained parameter once, tied ones at their first place."""
    seen: set[int] = set()
    for module in model.modules():
        for handle in constrained_in(module):
            if id(handle.parameter) not in seen:
                seen.add(id(handle.parameter))
                yield handle


def is_prepared(model: nn.Module) -> bool:
    """Whether anything of ``model`` is constrained."""
    return any(map(constraints, model.modules()))


def check_values(model: nn.Module) -> None:
    """Read all that constrained parameters are computed from, and refuse what no level stands for.

    Raises:
        DivergedError: which tensor holds NaN or infinity.
    """
    prefixes = {module: f"{name}." if name else "" for name, module in model.named_modules()}
    for handle in constrained_parameters(model):
        for suffix in ("", LOG_GAPS, *handle.constraint.extra):
            name = f"{handle.name}_{suffix}" if suffix else handle.name
            tensor = handle.module._parameters.get(name)
            if tensor is not None:
                check_finite(prefixes[handle.module] + name, tensor)


def taken_names(module: nn.Module, name: str, suffixes: Collection[str]) -> list[str]:
    """Those tensors of ``module``'s own that lie where some beside its ``name`` are to stand."""
    beside = [f"{name}_{suffix}" for suffix in suffixes]
    return [own for own in beside if own in module._parameters or own in module._buffers]


def latent_names(names: Collection[str]) -> list[str]:
    """Those of a state dict's ``names`` whose tensors train, beside a codebook, on no level yet."""
    added = [f"_{suffix}" for suffix in (LOG_GAPS, LENGTHS, BITS)]
    return [name for name in names if all(f"{name}{suffix}" in names for suffix in added)]


@dataclass(frozen=True)
class Constrained:
    """A constrained parameter: the handle by which the rooms above ask for all that it is.

    It holds no tensor, so it may be made anew wherever one is needed.

    Args:
        module: that owns the parameter.
        name: of the parameter in ``module``.
    """

    module: nn.Module
    name: str

    @property
    def constraint(self) -> Constraint:
        return constraints(self.module)[self.name]

    @property
    def relaxation(self) -> Relaxation | None:
        return self.constraint.relaxation

    @property
    def config(self) -> Config:
        return self.constraint.config

    @property
    def parameter(self) -> nn.Parameter:
        """The Parameter itself, in its own units, which trains."""
        parameter = self.module._parameters[self.name]
        assert parameter is not None
        return parameter

    @property
    def log_gaps(self) -> nn.Parameter | None:
        """What the codebook is trained through; None for float16."""
        return self.module._parameters.get(f"{self.name}_{LOG_GAPS}")

    @property
    def lengths(self) -> Tensor:
        """(levels,) bits charged for each level, as last counted."""
        return self._buffer(LENGTHS)

    @property
    def mean_bits(self) -> Tensor:
        """() bits of a weight under them, on average; NaN where weights are no numbers."""
        return self._buffer(BITS)

    @property
    def frozen(self) -> Tensor | None:
        """The symbols that `freeze` fixed, int32 of the parameter's shape; None while it trains."""
        return self.module._buffers.get(f"{self.name}_{SYMBOLS}")

    def codebook(self, dtype: torch.dtype | None = None) -> Codebook:
        """The present codebook; differentiable. ``dtype``: that a product wants values in."""
        log_gaps = self.log_gaps
        assert log_gaps is not None
        return Codebook(self.config.levels, log_gaps, dtype)

    def variables(self) -> dict[str, Tensor]:
        """What the relaxation trains; "weight" is the Parameter itself."""
        tensors: dict[str, Tensor] = {"weight": self.parameter}
        for suffix in self.constraint.extra:
            tensor = self.module._parameters[f"{self.name}_{suffix}"]
            assert tensor is not None
            tensors[suffix] = tensor
        return tensors

    def beside(self) -> list[nn.Parameter]:
        """What is trained beside the Parameter: its codebook, and what its relaxation has."""
        own = self.module._parameters
        found = [own.get(f"{self.name}_{suffix}") for suffix in self.constraint.added]
        return [parameter for parameter in found if parameter is not None]

    def trained(self) -> tuple[str, ...]:
        """Names of those `variables` that train."""
        return tuple(key for key, tensor in self.variables().items() if tensor.requires_grad)

    @property
    def is_held(self) -> bool:
        """Whether its user has frozen it, by ``requires_grad_(False)``, and not `freeze` alone."""
        trained = self.trained()
        if self.frozen is not None:
            trained = self.constraint.trained
            if self.log_gaps is not None and not self.log_gaps.requires_grad:
                return True
        return len(trained) < len(self.variables())

    def symbols(self) -> Tensor:
        """The hard decision, integers of the parameter's shape."""
        if self.frozen is not None:
            return self.frozen
        assert self.relaxation is not None
        return self.relaxation.symbols(self.variables(), self.codebook())

    def relaxed(self, dtype: torch.dtype | None = None) -> Tensor:
        """What a read gives: the hard tensor, or a random one while training so.

        Args:
            dtype: that a product wants it in, and may get.
        """
        constraint = self.constraint  # asked once: each read costs
        relaxation, config = constraint.relaxation, constraint.config
        if relaxation is None:
            return _round_to_half(self.parameter)
        log_gaps, frozen = self.log_gaps, self.frozen
        assert log_gaps is not None
        book = Codebook(config.levels, log_gaps, dtype)
        if frozen is not None:
            return book.dequantize(frozen)
        variables = self.variables()
        if not self.module.training or config.forward == "nearest":
            return relaxation.nearest(variables, book)
        sampled, row = relaxation.sampled(variables, book), self._padding_row()
        if row is None:
            return sampled
        return sampled.index_copy(0, row, relaxation.nearest(variables, book)[row])

    @property
    def takes_nearest(self) -> bool:
        """Whether a read rounds to the nearest levels."""
        constraint = self.constraint
        nearest = not self.module.training or constraint.config.forward == "nearest"
        return nearest and constraint.relaxation is not None and self.frozen is None

    @property
    def takes_moments(self) -> bool:
        """Whether a product is to get mean and variance while the network trains."""
        return (
            self.config.forward == "moments" and self.relaxation is not None and self.frozen is None
        )

    def hard(self) -> Tensor:
        """The discrete tensor that remains in the end: codebook values, zero as +0.0."""
        with torch.no_grad():  # no decorator: compilers cannot trace one on a handle
            if self.relaxation is None:
                return _round_to_half(self.parameter)
            return self.codebook().dequantize(self.symbols())

    def mean(self) -> Tensor:
        """The expected tensor of the relaxation; once frozen, or without one, the hard tensor."""
        if self.relaxation is None or self.frozen is not None:
            return self.hard()
        with torch.no_grad():
            return self.relaxation.moments(self.variables(), self.codebook())[0]

    def freeze(self, trained: tuple[str, ...] | None = None) -> None:
        """Fix the hard decision; the codebook goes on training.

        Args:
            trained: what `trained` gave before others froze what they share with this one.
        """
        if self.relaxation is None or self.frozen is not None:
            return
        trained = self.trained() if trained is None else trained
        self.module.register_buffer(f"{self.name}_{SYMBOLS}", self.symbols().to(torch.int32))
        constraints(self.module)[self.name] = replace(self.constraint, trained=trained)
        for tensor in self.variables().values():
            tensor.requires_grad_(False)

    def thaw(self) -> None:
        """Undo `freeze`."""
        if self.module._buffers.pop(f"{self.name}_{SYMBOLS}", None) is not None:
            for suffix in self.constraint.trained:
                self.variables()[suffix].requires_grad_()

    def restart(self) -> None:
        """Start the codebook and the relaxation's variables from the present weight."""
        assert self.relaxation is not None
        assert self.log_gaps is not None
        with torch.no_grad():
            weight = self.parameter.detach()
            self.log_gaps.copy_(starting_log_gaps(self.config, weight))
            fresh = self.relaxation.extra_variables(weight, self.codebook())
            for suffix, value in fresh.items():
                self.variables()[suffix].copy_(value)

    def charged_variables(self) -> dict[str, Tensor]:
        """`variables`, but that the row of an embedding which no loss trains is not charged."""
        variables, row = self.variables(), self._padding_row()
        if row is not None:
            for key, t in variables.items():
                axis = t.ndim - self.parameter.ndim  # logits have levels first
                variables[key] = t.index_copy(axis, row, t.detach().index_select(axis, row))
        return variables

    def charged_codebook(self) -> Codebook:
        """`codebook`, out of reach of the rate, which would inflate it."""
        log_gaps = self.log_gaps
        assert log_gaps is not None
        return Codebook(self.config.levels, log_gaps.detach())

    def _padding_row(self) -> Tensor | None:
        """(1,) int64: the row of an embedding that stands for no token, else None."""
        module = self.module
        if self.name != "weight" or not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return None
        if module.padding_idx is None:
            return None
        row = module.padding_idx  # made there: a copy would wait for the device
        return torch.arange(row, row + 1, device=self.parameter.device)

    def _buffer(self, suffix: str) -> Tensor:
        buffer = self.module._buffers[f"{self.name}_{suffix}"]
        assert buffer is not None
        return buffer


def starting_log_gaps(config: Config, weight: Tensor) -> Tensor:
    """Log gaps of the codebook that a parameter starts with, see `initial_log_gaps`."""
    return initial_log_gaps(config.codebook, weight, config.levels, config.reach, config.keep_grid)


def _round_to_half(weight: Tensor) -> Tensor:
    most = torch.finfo(torch.float16).max
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    rounded = wide.clamp(-most, most).half().to(weight.dtype)
    return rounded + (weight - weight.detach())
