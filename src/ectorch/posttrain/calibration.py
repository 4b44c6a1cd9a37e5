"""Example inputs, what the float network makes of them, and what they tell of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ectorch.errors import ConfigError
from ectorch.posttrain import sensitivity
from ectorch.posttrain.divergence import Divergence, Output
from ectorch.posttrain.folder import Folder
from ectorch.posttrain.rounding import Plan
from ectorch.posttrain.sites import Site
from ectorch.posttrain.statistics import Statistics, gather
from ectorch.rewrite.batches import Run, call, check_runs

_MEASURED = 4096  # examples that all sensitivities together are measured on


@dataclass(frozen=True)
class Calibration:
    """Example inputs, and outputs of the float network.

    Attributes:
        runs: calls of a network, one a batch.
        sizes: examples of each.
        compare, output: what is compared, and how.
        references: outputs of the float network, one a batch.
    """

    runs: Sequence[Run]
    sizes: Sequence[int]
    compare: Divergence
    output: Output
    references: Sequence[Tensor]

    @classmethod
    def of(
        cls, model: nn.Module, given: list[Any] | Run, compare: Divergence, output: Output
    ) -> Calibration:
        """Run the float network.

        Args:
            given: batches, `ectorch.rewrite.batches.listed`.

        Raises:
            ConfigError: when there are none, or the network does not run on them.
        """
        if not given:
            raise ConfigError("batches: expected inputs, one batch at least")
        check_runs(model, given)
        if callable(given):
            runs: list[Run] = [given]
            sizes = [1]
        else:
            runs, sizes = [partial(call, batch=b) for b in given], [*map(examples, given)]
        return cls(runs, sizes, compare, output, sensitivity.outputs(model, runs, output))

    def apart(self, model: nn.Module, runs: int | None = None) -> float:
        """Mean divergence of ``model`` from the float network, on the first ``runs``."""
        return sensitivity.mean_divergence(
            model, self.runs[:runs], self.references[:runs], self.compare, self.output
        )

    def plan(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        told: Callable[[str], object],
        folder: Folder | None = None,
    ) -> Plan:
        """Measure how much each tensor may be hurt; vectors are taken to be as usual.

        Args:
            folder: that has, or gets, what is measured.
        """
        large = [site for site in sites if site.parameter.ndim > 1]
        few = self._few(len(large))

        def note(name: str, value: float) -> None:
            if folder is not None:
                folder.note_sensitivity(name, value)
            told(f"sensitivity of {name}: {value:.3g}")

        known = {} if folder is None else folder.sensitivities
        measured = sensitivity.measure(large, lambda: self.apart(model, few), note, known)
        settled, unseen = sensitivity.settled(measured, [site.name for site in sites])
        return Plan(sites, settled, measured={n for n in measured if n not in unseen})

    def gather(
        self,
        model: nn.Module,
        plan: Plan,
        bits_per_weight: float,
        feedback: bool,
        told: Callable[[str], object],
        folder: Folder | None = None,
    ) -> None:
        """Add what inputs of layers tell to a plan.

        Args:
            bits_per_weight: that the network will have, about.
            feedback: whether how errors make up for one another is wanted, or means alone.
            folder: that has, or gets, what is found, from where it is read again when needed.
        """
        found: dict[str, Statistics] = {}
        keep = found.__setitem__ if folder is None else folder.keep
        plan.statistics = found if folder is None else folder.statistics()

        def note(name: str, statistics: Statistics) -> None:
            keep(name, statistics)
            told(f"inputs of {name}")

        lacking = [
            site
            for site in plan.sites
            if site.name in plan.measured and site.name not in plan.statistics
        ]
        worth = plan.worth(plan.start_slope(bits_per_weight))
        given = self.runs, self.compare, self.output
        gather(model, lacking, *given, worth, note, feedback)

    def _few(self, times: int) -> int:
        """Runs whose examples do for so many measurements."""
        most, total = _MEASURED / max(times, 1), 0
        for at, size in enumerate(self.sizes):
            total += size
            if total >= most:
                return at + 1
        return len(self.sizes)


def examples(batch: Any) -> int:
    """How many examples a batch has: the longest first dimension in it."""
    leaves = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    return max(map(len, leaves), default=1)
