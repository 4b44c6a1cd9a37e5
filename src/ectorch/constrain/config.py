"""`Config`: which parameters of a network are constrained, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ectorch.constrain.codebook import CodebookKind
from ectorch.constrain.lengths import LengthRule, find_rule
from ectorch.constrain.relaxation import Bracket, Categorical, Hard, Relaxation
from ectorch.constrain.relaxation.base import lacking
from ectorch.errors import ConfigError

Forward = Literal["nearest", "sampled", "moments"]
BiasFormat = Literal["float32", "float16", "grid"]
Selector = str | type[nn.Module]

RELAXATIONS: dict[str, Callable[..., Relaxation]] = {
    "bracket": Bracket,
    "categorical": Categorical,
    "hard": Hard,
}
# their parameters scale units one by one: files hold them on grids of their own, or as floats
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_MAX_LEVELS = 1 << 16


@dataclass(frozen=True)
class Config:
    """What to constrain, and how.

    Name patterns are shell patterns (``fc*``, ``*.weight``), held against the parameter's full
    name and the name of its module.

    Attributes:
        levels: values of a weight's codebook, zero included.
        relaxation: "bracket", "categorical" (the paper's; a logit a level and weight), "hard"
            (EC2T's assignment), or any `Relaxation` of your own.
        forward: what a training step multiplies with: "nearest" codebook values, values "sampled"
            at random, or for Linear and Conv "moments" (mean and variance of the layer's output;
            other modules get "sampled"). In eval mode the network is always the hard one.
        codebook: "grid" (one learned step), or free values that start at "kmeans" or "quantile".
        lengths: how a relaxation that is given by name charges its levels: "isotonic",
            "running_maximum", "free", "pruning", "cardinality", or a rule of your own, see
            `ectorch.constrain.lengths`; None is the relaxation's own default.
        strength: lambda of "hard", in units of the smallest gap squared a bit; None is its default.
        reach: steps of a grid from zero to the farthest weight when training starts. Coarse steps
            are what makes networks sparse (the range has no limit: levels beyond are free for
            weights that grow); random forwards want 3; for plain quantisation give half of
            ``levels``.
        keep_grid: a parameter whose values lie on a grid of at most ``levels`` already, as after
            `ectorch.convert`, keeps its step: training goes on from the very network that is there.
        bias: every parameter of fewer than two dimensions (biases; norms where ``include`` has
            them): "float32" leaves it, "float16" rounds it, "grid" constrains it with
            ``bias_levels`` on a grid, nearest.
        bias_levels: see ``bias``.
        include: module types whose own parameters are constrained, and patterns of parameters. None
            is every floating parameter of two dimensions or more, whatever module has it, but
            norms; and the biases beside them.
        exclude: module types and patterns that stay as they are.
        overrides: pattern -> fields of this class for what matches, in order: ``levels``,
            ``relaxation``, ``lengths``, ``strength``, ``forward``, ``codebook``, ``reach``,
            ``keep_grid``, ``bias``, ``bias_levels``, ``alpha_scale`` and ``keep_float``.
        alpha_scale: factor of ``alpha`` for these parameters.
        keep_float: leave these parameters as they are.

    Raises:
        ConfigError: when a field cannot be.
    """

    levels: int = 33
    relaxation: str | Relaxation = "bracket"
    forward: Forward = "nearest"
    codebook: CodebookKind = "grid"
    lengths: str | LengthRule | None = None
    strength: float | None = None
    reach: float = 1.33
    keep_grid: bool = False
    bias: BiasFormat = "grid"
    bias_levels: int = 65
    include: tuple[Selector, ...] | None = None
    exclude: tuple[Selector, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    alpha_scale: float = 1.0
    keep_float: bool = False

    def __post_init__(self) -> None:
        for name in ("levels", "bias_levels"):
            levels = getattr(self, name)
            self._expect(
                name,
                isinstance(levels, int) and 2 <= levels <= _MAX_LEVELS,
                f"a whole number from 2 to {_MAX_LEVELS}",
            )
        for name, allowed in (
            ("forward", get_args(Forward)),
            ("codebook", get_args(CodebookKind)),
            ("bias", get_args(BiasFormat)),
            ("keep_float", (False, True)),
            ("keep_grid", (False, True)),
        ):
            self._expect(name, getattr(self, name) in allowed, f"one of {allowed}")
        chosen = self.relaxation
        self._expect(
            "relaxation",
            chosen in RELAXATIONS
            if isinstance(chosen, str)
            else isinstance(chosen, Relaxation) and not isinstance(chosen, type),
            f"one of {tuple(RELAXATIONS)}, or an object with what a Relaxation has"
            + ("" if isinstance(chosen, str) else f"; not here: {', '.join(lacking(chosen))}"),
        )
        if self.lengths is not None:
            find_rule(self.lengths)
        if self.strength is not None:
            self._expect("strength", _is_number(self.strength) and self.strength >= 0, "0 or more")
            self._expect("strength", chosen == "hard", "None but for relaxation = 'hard'")
        if not isinstance(chosen, str):
            self._expect("lengths", self.lengths is None, "None beside a relaxation with its own")
        self._expect("reach", _is_number(self.reach) and self.reach > 0, "more than 0")
        self._expect(
            "alpha_scale",
            _is_number(self.alpha_scale) and 0 <= self.alpha_scale < math.inf,
            "0 or more",
        )
        for name in ("include", "exclude"):
            selectors = getattr(self, name)
            if name == "include" and selectors is None:
                continue
            self._expect(
                name,
                isinstance(selectors, tuple | list) and all(map(_is_selector, selectors)),
                "a tuple of module types and patterns",
            )
        self._expect("overrides", isinstance(self.overrides, Mapping), "pattern -> fields")
        for pattern, changes in self.overrides.items():
            where = f"overrides[{pattern!r}]"
            if not isinstance(changes, Mapping):
                raise ConfigError(f"{where} = {changes!r}: expected field -> value")
            unknown = sorted(set(changes) - _OVERRIDABLE)
            if unknown:
                raise ConfigError(
                    f"{where}: unknown {', '.join(unknown)}; "
                    f"known: {', '.join(sorted(_OVERRIDABLE))}"
                )
            try:
                self._changed(changes)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} = {getattr(self, name)!r}: expected {expected}")

    def _changed(self, changes: Mapping[str, Any]) -> Config:
        """With other fields; what belongs to another relaxation goes with it."""
        chosen = changes.get("relaxation", self.relaxation)
        dropped: dict[str, Any] = {"overrides": {}}
        if chosen != "hard":
            dropped["strength"] = None
        if not isinstance(chosen, str):
            dropped["lengths"] = None
        return replace(self, **(dropped | dict(changes)))

    def for_parameter(
        self, module_name: str, module: nn.Module, parameter: str, dimensions: int
    ) -> Config | None:
        """The settings of one parameter alone; None when it stays as it is.

        Overrides are applied, and for fewer than two dimensions what ``bias`` and ``bias_levels``
        say: so ``levels``, ``codebook``, ``reach`` and ``forward`` are those of this parameter.
        """

        def matches(selector: Selector) -> bool:
            if isinstance(selector, type):
                return isinstance(module, selector)
            return any(fnmatchcase(name, selector) for name in (module_name, full_name, owner))

        full_name = f"{module_name}.{parameter}" if module_name else parameter
        owner = module_name.partition(".parametrizations.")[0]
        if self.include is None:
            included = dimensions > 1 or any(dimensions_of(p) > 1 for p in module.parameters(False))
            included = included and not isinstance(module, NORMS)
        else:
            included = any(map(matches, self.include))
        if not included or any(map(matches, self.exclude)):
            return None
        config = replace(self, overrides={}, include=None, exclude=())
        for pattern, changes in self.overrides.items():
            if matches(pattern):
                config = config._changed(changes)
        if config.keep_float or (dimensions < 2 and config.bias == "float32"):
            return None
        return config if dimensions > 1 else config._of_bias()

    def _of_bias(self) -> Config:
        """On a grid of ``bias_levels`` that reaches to the farthest weight, nearest."""
        levels = self.bias_levels
        return replace(self, levels=levels, codebook="grid", reach=math.inf, forward="nearest")

    def patterns(self) -> list[str]:
        """Every name pattern that should match something."""
        selectors = (*(self.include or ()), *self.exclude, *self.overrides)
        return [selector for selector in selectors if isinstance(selector, str)]

    def make_relaxation(self) -> Relaxation:
        """The relaxation itself, where ``relaxation`` is its name."""
        chosen = self.relaxation
        if not isinstance(chosen, str):
            return chosen
        settings: dict[str, Any] = {}
        if self.lengths is not None:
            settings["lengths"] = find_rule(self.lengths)
        if self.strength is not None:
            settings["strength"] = self.strength
        return RELAXATIONS[chosen](**settings)


def dimensions_of(parameter: Tensor) -> int:
    """Of a parameter; a lazy one will have two or more."""
    return 2 if is_lazy(parameter) else parameter.ndim


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _is_selector(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, type) and issubclass(value, nn.Module))


_OVERRIDABLE = {f.name for f in fields(Config)} - {"include", "exclude", "overrides"}
