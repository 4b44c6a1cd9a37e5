"""A few hundred steps from a rounded network, with the float network as its teacher."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ectorch import workflow
from ectorch.arguments import check_module, check_number, shown
from ectorch.errors import ConfigError, DivergedError
from ectorch.posttrain.calibration import examples
from ectorch.posttrain.divergence import Output, divergence, first_output
from ectorch.posttrain.report import Report
from ectorch.rewrite.batches import Batches, call, check_runs, listed
from ectorch.size.control import SizeControl
from ectorch.size.fit import fit_size
from ectorch.size.measure import SizeMeter

_OBSERVATIONS = 40  # of the size, a training
_RISE = 0.6  # share of the training in which the size comes down


def tune(
    model: nn.Module,
    teacher: nn.Module,
    batches: Batches,
    report: Report,
    *,
    target_bytes: float | None = None,
    steps: int = 300,
    step_lr: float = 0.02,
    lr: float = 1e-4,
    alpha: float = 0.1,
    compare: str = "kl",
    output: Output = first_output,
    forward_only: bool = False,
    on_progress: Callable[[str], object] | None = None,
) -> int:
    """Train a rounded network on, in place, toward what its teacher says of the same inputs.

    It keeps its grids (`ectorch.prepare` with ``report.config()``), is trained by Adam under the
    penalty that leads its file to ``target_bytes`` (`ectorch.SizeControl`, `ectorch.fit_size`), and
    is finalized. No labels are needed. The network computes in eval mode: norms keep their
    statistics, nothing is dropped out.

    Args:
        model: as `ectorch.quantize` left it.
        teacher: the float network; it stays as it is.
        batches: training inputs, in mini-batches, which are gone through in turn.
        report: what `ectorch.quantize` returned.
        target_bytes: of the file; what it has already if None.
        steps: of training.
        step_lr: learning rate of the weights, in steps of their grids, falling to 0 (cosine).
        lr: of what is on no grid.
        alpha: that the control begins with, see `ectorch.SizeControl`.
        compare: how outputs are compared: "kl", "mse" or "cosine".
        output: which tensor of what the networks return is compared.
        forward_only: see `ectorch.finalize`.
        on_progress: is told what happens, in a few words.

    Returns:
        the size of the file that `ectorch.save_model` writes.

    Raises:
        ConfigError: for batches that the network does not run on, or a size that cannot be had.
        DivergedError: when a loss is not finite. ``model`` is prepared then; load it again.
    """
    check_module("tune", model)
    check_module("tune", teacher)
    check_number("steps", steps, least=1)
    if not isinstance(report, Report):
        raise ConfigError(f"report = {shown(report)}: expected what ectorch.quantize returned")
    given = listed(batches)
    if callable(given) or not given:
        raise ConfigError("batches: expected inputs, one mini-batch at least")
    check_runs(model.eval(), given)
    apart, told = divergence(compare).between, on_progress or (lambda words: None)
    finalize = partial(workflow.finalize, batches=given, forward_only=forward_only)
    workflow.prepare(model, report.config())
    control = SizeControl.for_model(
        model, target_bytes=target_bytes or report.size_bytes, alpha=alpha, rise=_RISE, peak=1.0
    )
    optimizer = torch.optim.Adam(workflow.param_groups(model, lr=lr, step_lr=step_lr))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    meter = SizeMeter(partial(workflow.finalize, forward_only=forward_only))
    training = [module for module in teacher.modules() if module.training]
    teacher.eval()
    number = sum(map(examples, given))
    every = max(1, steps // _OBSERVATIONS)
    for step, batch in enumerate(itertools.islice(itertools.cycle(given), steps)):
        if step % every == 0:
            size = meter(model).total
            control.observe(step / steps, size)
        with torch.no_grad():
            reference = output(call(teacher, batch))
        loss = apart(output(call(model, batch)), reference).mean()
        if step % every == 0:
            told(f"step {step:,}: divergence {float(loss.detach()):.4g}, {size:,} bytes")
            if not loss.isfinite():
                raise DivergedError(f"the divergence is {float(loss.detach())} at step {step:,}")
        loss = loss + workflow.penalty(model, control.alpha_at(step / steps), number)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for module in training:
        module.training = True
    fit_size(model, int(control.target_bytes), optimizer, finalize=finalize)
    finalize(model)
    return SizeMeter(lambda network: network)(model).total
