"""The one training loop: float, constrained, frozen; then write, read back, compare, evaluate."""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.bitstream import write_atomic
from ectorch.errors import DivergedError, FormatError, RecipeError, TrainingError
from ectorch.experiments import data as data_sets
from ectorch.experiments.augment import augment
from ectorch.experiments.collapse import collapse
from ectorch.experiments.data import DataSet, Split
from ectorch.experiments.distill import Teacher
from ectorch.experiments.evaluation import autocast, channels_last, evaluate, pixels
from ectorch.experiments.files import asked_for, load_checkpoint, load_into
from ectorch.experiments.networks import NETWORKS, check_images, expected_network
from ectorch.experiments.progress import Interrupted, Progress
from ectorch.experiments.recipe import ConstrainStage, Recipe, Stage
from ectorch.experiments.result import FLOAT_FILE, check_same_recipe, finish, finished
from ectorch.experiments.target import SizeTarget
from ectorch.rewrite.norms import restore_norms
from ectorch.rewrite.units import cut_to_shapes, remove_dead_units
from ectorch.size.control import ramp
from ectorch.size.measure import SizeMeter
from ectorch.storage.discrete import discrete_state_dict
from ectorch.workflow import (
    convert,
    finalize,
    freeze_symbols,
    param_groups,
    penalty,
    prepare,
)

STAGES = ("pretrain", "reduce", "constrain", "finetune")
_CHECKPOINT_SECONDS = 60.0
_MONITORED = 5000  # training images that stand in where none are held out
_MEASURED = 5000  # training images that tell the statistics of batch norms


@dataclass
class _State:
    """What a checkpoint holds beside the tensors."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0
    alpha: float = 0.0


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
        DataError: when the data cannot be had.
        RecipeError: when the network to start from cannot be had, or no file of it can have the
            size that is asked for: what sizes can be had; or when an error is asked for, or more
            images are to be held out than there is room for.
        MismatchError: when the network cannot take its images.
        TrainingError: when the loss is not finite, or ``out`` holds a run of another recipe.
        Interrupted: when ``should_stop`` said so.
    """
    if recipe.target_error:
        raise RecipeError("target_error: takes several trainings, see ectorch.experiments.search")
    result = finished(recipe, out)
    if result is not None:
        return result
    torch.set_num_threads(recipe.threads)
    if torch.get_num_threads() != recipe.threads:
        raise TrainingError(f"{torch.get_num_threads()} threads, the recipe asks {recipe.threads}")
    data = data_sets.load(recipe.data)
    check_images(recipe.network, data.name, data.train.images)
    data_sets.check_holdout(data, recipe.holdout)
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, data, out, on_progress, should_stop, float_file)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* has no nonzero left")  # `Progress` has its own word
        run.go()
    unseen = run.monitored if run.held_out else data.test
    result = finish(
        recipe,
        run.model,
        unseen,
        run.images,
        out,
        run.state.epochs,
        run.estimate_bytes,
        run.seconds(),
    )
    run.checkpoint.unlink(missing_ok=True)
    return result


class _Run:
    """A training in progress: everything that a checkpoint saves and restores."""

    def __init__(
        self,
        recipe: Recipe,
        data: DataSet,
        out: Path,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        float_file: Path | None,
    ) -> None:
        self.recipe, self.data, self.out, self.float_file = recipe, data, out, float_file
        self.on_progress, self.should_stop = on_progress, should_stop
        held_out = Split(data.train.images[:0], data.train.labels[:0])
        self.images = data.train
        if recipe.holdout:
            self.images, held_out = data_sets.hold_out(data.train, recipe.holdout)
        self.monitored = held_out if len(held_out) else self.images[:_MONITORED]
        self.held_out = bool(len(held_out))
        self.measured = channels_last(pixels(self.images.images[:_MEASURED]))
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = NETWORKS[recipe.network]()
        self.optimizer: torch.optim.Optimizer | None = None
        self.state = _State()
        self.teacher: Teacher | None = None
        if recipe.distill.teacher:
            self.teacher = Teacher(recipe.distill, recipe.precision, data)
        final = partial(finalize, norm_levels=recipe.norm_levels, forward_only=True)
        self.meter = SizeMeter(final, recipe.threads)
        self.target: SizeTarget | None = None
        if recipe.targets():
            steps = recipe.constrain.epochs * (len(self.images) // recipe.constrain.batch)
            self.target = SizeTarget(recipe, self.model, self.meter, steps)
        self.estimate_bytes = math.nan
        self.checkpoint = out / "checkpoint.pt"
        self._shuffled: tuple[tuple[int, int, int], Tensor] | None = None
        self._started = time.monotonic()
        if self.checkpoint.exists():
            self._restore()
        elif recipe.start:
            with asked_for("start", Path(recipe.start)):
                load_into(self.model, Path(recipe.start))
            restore_norms(self.model, [self.measured])

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
                self.optimizer = self._make_optimizer()
            self._train_stage()
            if self.target and self.stage is self.recipe.constrain:
                self.target.fit(self.model, self.optimizer, self._finalize)
            self.state.stage, self.state.step, self.optimizer = self.state.stage + 1, 0, None
        self.estimate_bytes = self.meter(self.model).total
        if self.target and self.recipe.finetune.epochs:  # which may have changed its size
            self.target.fit(self.model, None, self._finalize)
        self._finalize(self.model)

    def _keep_float(self) -> None:
        if self.float_file:
            data = self.float_file.read_bytes()
        else:
            data = safetensors.torch.save(self.model.state_dict())
        write_atomic(self.out / FLOAT_FILE, data)

    def _finalize(self, model: nn.Module) -> nn.Module:
        # statistics that batch norms gathered from noisy weights are wrong for the hard ones
        return self.meter.finalize(model, [self.measured])

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

    def _make_optimizer(self) -> torch.optim.Optimizer:
        stage = self.stage
        special = stage.rates() if isinstance(stage, ConstrainStage) else {}
        groups = param_groups(self.model, stage.lr, stage.weight_decay, **special)
        if stage.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
        return torch.optim.Adam(groups)

    def _train_stage(self) -> None:
        stage, state = self.stage, self.state
        batches = len(self.images) // stage.batch
        if stage.epochs and not batches:
            raise TrainingError(f"batch of {stage.batch} from {len(self.images)} images")
        saved = time.monotonic()
        while state.step < stage.epochs * batches:
            epoch, batch = divmod(state.step, batches)
            if batch == 0:
                state.loss_sum, state.loss_steps = 0.0, 0
            chosen = self._order(epoch)[batch * stage.batch : (batch + 1) * stage.batch]
            self._step(self.images[chosen], state.step / (stage.epochs * batches))
            state.step += 1
            if state.step % batches == 0:
                self._end_epoch(epoch)
                # what a fold into a bias on a grid rounds, the epochs that follow mend
                if (
                    isinstance(stage, ConstrainStage)
                    and stage.remove_dead
                    and epoch + 1 < stage.epochs
                ):
                    remove_dead_units(self.model, self.optimizer, forward_only=True)
            self._report(epoch, stage.epochs * batches)
            if self.should_stop():
                self._save()
                raise Interrupted
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    def _order(self, epoch: int) -> Tensor:
        """The shuffled training images of one epoch, the same whenever it is asked for."""
        key = (self.recipe.seed, self.state.stage, epoch)
        if self._shuffled is None or self._shuffled[0] != key:
            seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            self._shuffled = key, torch.randperm(len(self.images), generator=generator)
        return self._shuffled[1]

    def _step(self, batch: Split, progress: float) -> None:
        stage, optimizer = self.stage, self.optimizer
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("full_lr", group["lr"]) * _lr_share(progress, stage)
        self.model.train()
        images = channels_last(augment(pixels(batch.images), self.recipe.augment))
        with autocast(self.recipe.precision):
            logits = self.model(images).float()
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=stage.label_smoothing)
        if self.teacher:
            loss = self.teacher.mix(loss, logits, images)
        objective = loss
        if isinstance(stage, ConstrainStage):
            if self.target and stage is self.recipe.constrain:
                self.state.alpha = self.target.alpha(self.model, self.state.step)
            else:
                factor = ramp(progress, stage.rise, stage.peak, stage.fall)
                self.state.alpha = stage.alpha * factor
            refresh = self.state.step % stage.refresh == 0
            try:
                objective = loss + penalty(self.model, self.state.alpha, len(self.images), refresh)
            except DivergedError as error:
                raise self._diverged(str(error)) from error
        value = objective.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self.state.loss_sum += loss.item()
        self.state.loss_steps += 1

    def _diverged(self, what: str) -> TrainingError:
        step = f"{STAGES[self.state.stage]} step {self.state.step}"
        return TrainingError(f"{step}: {what}; lower lr ({self.stage.lr})")

    def _end_epoch(self, epoch: int) -> None:
        constrained = self.state.stage > 0
        with autocast(self.recipe.precision):
            hard = evaluate(self.model.eval(), self.monitored).error_percent
            gap = None
            if constrained:
                expected = expected_network(self.recipe.network, self.model, self.measured)
                gap = evaluate(expected, self.monitored).error_percent - hard
        size = self.meter(self.model) if constrained else None
        record = {
            "stage": STAGES[self.state.stage],
            "epoch": epoch + 1,
            "loss": self.state.loss_sum / self.state.loss_steps,
            "held_out": self.held_out,
            "error_percent": hard,
            "size_bytes": size and size.total,
            "tensor_bytes": size and size.tensors,
            "alpha": self.state.alpha if constrained else None,
            "gap_percent": gap,
            "warning": collapse(discrete_state_dict(self.model)) if constrained else None,
        }
        self.state.epochs.append(record)

    def _report(self, epoch: int, steps: int) -> None:
        state, last = self.state, (self.state.epochs or [{}])[-1]
        self.on_progress(
            Progress(
                STAGES[state.stage],
                state.step,
                steps,
                epoch + 1,
                self.stage.epochs,
                state.loss_sum / state.loss_steps,
                self.held_out,
                last.get("error_percent"),
                last.get("size_bytes"),
                last.get("gap_percent"),
                last.get("alpha"),
                last.get("tensor_bytes"),
                last.get("warning"),
            )
        )

    def seconds(self) -> float:
        """Seconds of training, over all resumptions."""
        return self.state.seconds + time.monotonic() - self._started

    def _save(self) -> None:
        assert self.optimizer is not None
        state = asdict(self.state) | {"seconds": self.seconds()}
        buffer = io.BytesIO()
        torch.save(
            {
                "recipe": self.recipe.as_dict(),
                "threads": torch.get_num_threads(),
                "state": state,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "meter": self.meter.state_dict(),
                "control": self.target.control.state_dict() if self.target else {},
            },
            buffer,
        )
        write_atomic(self.checkpoint, buffer.getvalue())

    def _restore(self) -> None:
        try:
            saved = load_checkpoint(self.checkpoint)
        except FormatError as error:
            raise TrainingError(f"{error}: delete it to begin anew") from error
        check_same_recipe(saved["recipe"], self.recipe, self.out)
        if saved["threads"] != torch.get_num_threads():
            raise TrainingError(f"{self.checkpoint} was made with {saved['threads']} threads")
        state = _State(**saved["state"])
        for self.state.stage in range(state.stage + 1):
            self._reshape(restoring=True)
        self.state = state
        cut_to_shapes(self.model, saved["model"])
        self.model.load_state_dict(saved["model"])
        self.optimizer = self._make_optimizer()
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        self.meter.load_state_dict(saved["meter"])
        if self.target:
            self.target.control.load_state_dict(saved["control"])


def _lr_share(progress: float, stage: Stage) -> float:
    rise = min(progress / stage.warmup, 1.0) if stage.warmup else 1.0
    return rise * (1 + math.cos(math.pi * progress)) / 2
