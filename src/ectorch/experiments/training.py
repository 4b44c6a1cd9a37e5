"""The one training loop: float, constrained, frozen; then write, read back, compare, evaluate."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from ectorch.bitstream import write_atomic
from ectorch.errors import DivergedError, RecipeError, TrainingError
from ectorch.experiments import data as data_sets
from ectorch.experiments.augment import augment, check_augment
from ectorch.experiments.build import check_network, check_prepares, make_network
from ectorch.experiments.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    moved_on,
    place_of,
    table_of,
)
from ectorch.experiments.device import Device, check_precision, find_device
from ectorch.experiments.distill import Teacher
from ectorch.experiments.evaluation import autocast
from ectorch.experiments.files import asked_for, load_into
from ectorch.experiments.inputs import arranged, values
from ectorch.experiments.losses import Losses
from ectorch.experiments.monitor import Monitor
from ectorch.experiments.progress import STAGES, Interrupted, Progress, State
from ectorch.experiments.recipe import ConstrainStage, Recipe, Stage
from ectorch.experiments.result import FLOAT_FILE, finish, finished
from ectorch.experiments.schedule import Order, make_optimizer, make_schedule, restore_optimizer
from ectorch.experiments.split import DataSet, Split, check_holdout
from ectorch.experiments.target import SizeTarget
from ectorch.rewrite.norms import restore_norms
from ectorch.rewrite.units import cut_to_shapes, remove_dead_units
from ectorch.size.control import ramp
from ectorch.size.measure import SizeMeter
from ectorch.workflow import convert, finalize, freeze_symbols, penalty, prepare

_CHECKPOINT_SECONDS = 60.0


def train(
    recipe: Recipe,
    out: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    float_file: Path | None = None,
) -> dict[str, Any]:
    """Run a recipe, or go on where its checkpoint in ``out`` stands.

    Writes ``model.ect``, ``result.json``, ``log.jsonl``, ``float.safetensors`` (the network before
    the constraint) and while running ``checkpoint.pt`` into ``out``.

    Args:
        float_file: the float network that the file is compared with, where ``recipe.start`` is none
            but what an earlier run made of it; ``float.safetensors`` becomes a copy.

    Returns:
        what ``result.json`` holds.

    Raises:
        DataError: when the data cannot be had, or do not fit on the device.
        RecipeError: when the device is not there; when the network, or the one to start from,
            cannot be had, or cannot take the data; or when no file of it can have the size that is
            asked for: what sizes can be had; or when an error is asked for, or more is to be held
            out than there is room for.
        ConfigError, UnsupportedLayerError: when a stage cannot constrain the network.
        MismatchError: when a network of ours cannot take images of that shape.
        TrainingError: when the loss is not finite, or the device has too little memory, or ``out``
            holds a run of another recipe.
        Interrupted: when ``should_stop`` said so.
    """
    if recipe.target_error:
        raise RecipeError("target_error: takes several trainings, see ectorch.experiments.search")
    result = finished(recipe, out)
    if result is not None:
        return result
    device = find_device(recipe.device)
    check_precision(recipe.precision, device)
    torch.set_num_threads(recipe.threads)
    if torch.get_num_threads() != recipe.threads:
        raise TrainingError(f"{torch.get_num_threads()} threads, the recipe asks {recipe.threads}")
    data = data_sets.load(recipe.data)
    check_holdout(data, recipe.holdout)
    check_augment(recipe.augment, data.train.inputs)
    torch.manual_seed(recipe.seed)
    model = make_network(recipe.network)
    classes = check_network(recipe.network, model, data, device=device)
    batches = ", ".join(f"{name}.batch" for name in STAGES if getattr(recipe, name).epochs)
    with device.computing(f"smaller batches ({batches}), or --device cpu"):
        run = _Run(recipe, data, model, device, out, on_progress, should_stop, float_file)
        return _run_to_end(run, classes)


def _run_to_end(run: _Run, classes: int) -> dict[str, Any]:
    recipe, out = run.recipe, run.out
    if run.teacher and run.teacher.classes != classes:
        raise RecipeError(
            f"distill.teacher: {recipe.distill.teacher}: gives {run.teacher.classes} logits, "
            f"{recipe.network} {classes}"
        )
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has no nonzero left")  # `Progress` has its own word
        run.go()
    monitor, epochs = run.monitor, run.state.epochs
    unseen, size = monitor.unseen(run.data), run.estimate_bytes
    result = finish(
        *(recipe, run.model, unseen, monitor.trained, out, epochs, size, run.seconds()),
        *(run.device, run.places),
    )
    run.checkpoint.unlink(missing_ok=True)
    return result


class _Run:
    """A training in progress: what a checkpoint saves and restores, and what it needs to go on.

    Args:
        model: new, on which nothing was done yet, on the CPU.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: DataSet,
        model: nn.Module,
        device: Device,
        out: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        float_file: Path | None,
    ) -> None:
        self.recipe, self.data, self.out, self.float_file = recipe, data, out, float_file
        self.on_progress, self.should_stop = on_progress, should_stop
        self.device, self.places = device, [place_of(device, recipe.threads)]
        self.model, self.state = model.to(device.place), State()
        self.losses = Losses(device)
        self.shapes = {name: [*tensor.shape] for name, tensor in model.state_dict().items()}
        self.monitor = Monitor(recipe, data, model, device)
        self.order = Order(recipe.seed, len(self.monitor.trained), device.place)
        self.optimizer: torch.optim.Optimizer | None = None
        self.schedule: LRScheduler
        self.teacher: Teacher | None = None
        if recipe.distill.teacher:
            self.teacher = Teacher(recipe.distill, recipe.precision, data, device)
        for stage in (getattr(recipe, name) for name in STAGES):
            self._check(stage)
        final = partial(finalize, norm_levels=recipe.norm_levels, forward_only=True)
        self.meter = SizeMeter(final, recipe.threads)
        self.target: SizeTarget | None = None
        if recipe.targets():
            steps = recipe.constrain.epochs * self._batches(recipe.constrain)
            self.target = SizeTarget(recipe, model, self.meter, steps)
        self.estimate_bytes = math.nan
        self.checkpoint = out / CHECKPOINT_FILE
        self._started = time.monotonic()
        if self.checkpoint.exists():
            self._restore()
        elif recipe.start:
            with asked_for("start", Path(recipe.start)):
                load_into(model, Path(recipe.start))
            restore_norms(model, [self.monitor.measured])

    def _check(self, stage: Stage) -> None:
        """Refuse what would end the run only when its turn comes."""
        if isinstance(stage, ConstrainStage) and (stage.epochs or stage is self.recipe.constrain):
            check_prepares(self.model, stage.make_config())
        if stage.epochs and not self._batches(stage):
            trained = self.monitor.trained
            raise TrainingError(f"batch of {stage.batch} from {len(trained)} {trained.kind}")

    def _batches(self, stage: Stage) -> int:
        """Steps an epoch."""
        return len(self.monitor.trained) // stage.batch

    @property
    def stage(self) -> Stage:
        stage: Stage = getattr(self.recipe, STAGES[self.state.stage])
        return stage

    def go(self) -> None:
        """Train from where the state stands to the end of the last stage, and harden."""
        while self.state.stage < len(STAGES):
            if self.optimizer is None:
                if STAGES[self.state.stage] == "reduce":
                    self._keep_float()
                self._reshape()
                self._make_optimizer()
            self._train_stage()
            if self.target and self.stage is self.recipe.constrain:
                self.target.freeze(self.model, self.optimizer, self._finalize)
            self.state.stage, self.state.step, self.optimizer = self.state.stage + 1, 0, None
        self.estimate_bytes = self.meter(self.model).total
        if self.target and self.recipe.finetune.epochs:  # which may have changed its size
            self.target.freeze(self.model, None, self._finalize)
        self._finalize(self.model)

    def _keep_float(self) -> None:
        if self.float_file:
            data = self.float_file.read_bytes()
        else:  # of tied tensors each has its own copy
            contiguous = torch.contiguous_format
            tensors = {
                name: tensor.cpu().clone(memory_format=contiguous)
                for name, tensor in self.model.state_dict().items()
            }
            data = safetensors.torch.save(tensors)
        write_atomic(self.out / FLOAT_FILE, data)

    def _finalize(self, model: nn.Module) -> nn.Module:
        # statistics that batch norms gathered from noisy weights are wrong for the hard ones
        return self.meter.finalize(model, [self.monitor.measured])

    def _reshape(self, restoring: bool = False) -> None:
        """Turn the network into what the present stage trains; ``restoring``: values come later."""
        stage = self.stage
        if isinstance(stage, ConstrainStage) and (stage.epochs or stage is self.recipe.constrain):
            config = stage.make_config()
            convert(self.model)
            if self.target and stage is self.recipe.constrain and not restoring:
                config = self.target.with_room(self.model, config)
            prepare(self.model, config)
            if self.recipe.start and stage.remove_dead and not restoring:
                remove_dead_units(self.model, forward_only=True)
        elif STAGES[self.state.stage] == "finetune" and stage.epochs:
            freeze_symbols(self.model)

    def _make_optimizer(self) -> None:
        stage = self.stage
        self.optimizer = make_optimizer(self.model, stage, self.device)
        steps = stage.epochs * self._batches(stage)
        self.schedule = make_schedule(self.optimizer, stage, steps)

    def _train_stage(self) -> None:
        stage, state = self.stage, self.state
        batches = self._batches(stage)
        steps = stage.epochs * batches
        saved = time.monotonic()
        self.losses.begin(state)
        while state.step < steps:
            epoch, batch = divmod(state.step, batches)
            if batch == 0:
                state.loss_sum, state.loss_steps = 0.0, 0
                self.losses.begin(state)
            chosen = self.order.batch(state.stage, epoch, batch, stage.batch)
            self._step(self.monitor.trained[chosen], state.step / steps)
            state.step += 1
            ends = state.step % batches == 0
            if ends or self.losses.is_due(state):
                self._read_losses()
            if ends:
                state.epochs.append(self.monitor.record(self.model, state, epoch + 1, self.meter))
                # what a fold into a bias on a grid rounds, the epochs that follow mend
                if (
                    isinstance(stage, ConstrainStage)
                    and stage.remove_dead
                    and epoch + 1 < stage.epochs
                ):
                    remove_dead_units(self.model, self.optimizer, forward_only=True)
            self.on_progress(Progress.of(state, steps, stage.epochs, self.monitor.held_out))
            if self.should_stop():
                self._save()
                raise Interrupted
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    def _step(self, batch: Split, progress: float) -> None:
        stage, optimizer = self.stage, self.optimizer
        assert optimizer is not None
        self.model.train()
        given = augment(values(batch.inputs), self.recipe.augment)
        with autocast(self.recipe.precision, self.device.kind):
            logits = self.model(arranged(self.model, given)).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=stage.label_smoothing)
        if self.teacher:
            loss = self.teacher.mix(loss, logits, given)
        objective = loss
        if isinstance(stage, ConstrainStage):
            refresh = self.state.step % stage.refresh == 0
            count = len(self.monitor.trained)
            try:
                if self.target and stage is self.recipe.constrain:
                    self.state.alpha = self.target.alpha(self.model, self.state.step)
                else:
                    factor = ramp(progress, stage.rise, stage.peak, stage.fall)
                    self.state.alpha = stage.alpha * factor
                objective = loss + penalty(self.model, self.state.alpha, count, refresh)
            except DivergedError as error:
                raise self._diverged(str(error)) from error
        if not self.device.runs_ahead:
            self._check_finite(objective.item())
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.schedule.step()
        self.losses.add(loss, objective, self.state)

    def _read_losses(self) -> None:
        """Bring the state up to date, where that waits for the device."""
        first = self.state.step - self.losses.unread
        self._check_finite(self.losses.read(self.state), first)

    def _check_finite(self, objective: float, first: int | None = None) -> None:
        if not math.isfinite(objective):
            raise self._diverged(f"the loss is {objective}", first)

    def _diverged(self, what: str, first: int | None = None) -> TrainingError:
        """In the present step, or in one of those from ``first`` on that have ended."""
        last = self.state.step if first is None else self.state.step - 1
        steps = f"step {last}" if first in (None, last) else f"steps {first} to {last}"
        stage = STAGES[self.state.stage]
        return TrainingError(f"{stage} {steps}: {what}; lower lr ({self.stage.lr})")

    def seconds(self) -> float:
        """Seconds of training, over all resumptions."""
        return self.state.seconds + time.monotonic() - self._started

    def _save(self) -> None:
        assert self.optimizer is not None
        self._read_losses()
        Checkpoint(
            recipe=self.recipe.as_dict(),
            threads=torch.get_num_threads(),
            data_sha256=self.data.sha256,
            shapes=self.shapes,
            state=table_of(self.state, self.seconds()),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            meter=self.meter.state_dict(),
            control=self.target.control.state_dict() if self.target else {},
            random=torch.get_rng_state(),
            places=self.places,
            device_random=self.device.random_state(),
        ).write(self.checkpoint)

    def _restore(self) -> None:
        saved = Checkpoint.read(self.checkpoint, self.recipe, self.data.sha256, self.shapes)
        state = saved.run_state()
        for self.state.stage in range(state.stage + 1):
            self._reshape(restoring=True)
        self.state = state
        cut_to_shapes(self.model, saved.model)
        self.model.load_state_dict(saved.model)
        self._make_optimizer()
        assert self.optimizer is not None
        restore_optimizer(self.optimizer, saved.optimizer)
        self.schedule.load_state_dict(saved.schedule)
        torch.set_rng_state(saved.random)
        self.device.set_random_state(saved.device_random)
        self.places = moved_on(saved.places, self.places[0], self.checkpoint)
        self.meter.load_state_dict(saved.meter)
        if self.target:
            self.target.control.load_state_dict(saved.control)
