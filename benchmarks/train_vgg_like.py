"""Train a VGG-like network of half width on CIFAR-10 under an entropy constraint.

    python benchmarks/train_vgg_like.py --out runs/vgg --keep benchmarks/nets/vgg-like

A real sparse network of millions of weights for the benchmarks of the coder. Writes below ``--out``
epoch-N.ect after each constrained epoch, model.ect (the whole hard network), weights.ect (its
constrained tensors alone) and result.json; ``--keep`` copies the last two to that name. A
checkpoint after each epoch lets it resume. The error is that of held-out training images; the test
set is not touched. Other processors, whose bfloat16 sums differ, end in another network.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import ectorch as ec
from ectorch.experiments import data
from ectorch.experiments.data import Split
from ectorch.experiments.evaluation import evaluate, pixels
from ectorch.experiments.networks import VGGLike
from ectorch.size.control import ramp

HELD_OUT, HELD_OUT_SEED = 5000, 1234
RE_ESTIMATED = 10_000  # images from which the hard network's batch norms are re-estimated
REFRESH = 4
RAMP, WARM_UP = 0.6, 0.1  # shares of a stage
CONFIG = ec.Config(levels=33, reach=1.33)


def vgg_like() -> nn.Sequential:
    """Half of its own width; input (batch, 3, 32, 32) in [0, 1] as it is."""
    return VGGLike(width=32).layers


@dataclass(frozen=True)
class Settings:
    """What decides the result, together with this script."""

    float_epochs: int
    constrained_epochs: int
    batch: int
    float_lr: float
    lr: float
    alpha: float
    seed: int
    threads: int


@dataclass(frozen=True)
class Stage:
    """Float or constrained training: Adam, a linear rise of the rate, then a cosine to zero."""

    name: str
    epochs: int
    lr: float
    alpha: float = 0.0


class Trainer:
    """The network, its data, and where its files go."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out
        train = data.load("cifar-10").train
        self.images, self.held_out = data.hold_out(train, HELD_OUT, HELD_OUT_SEED)
        torch.manual_seed(settings.seed)
        self.model = vgg_like().to(memory_format=torch.channels_last)

    def run(self, stage: Stage) -> None:
        constrained = stage.name == "constrained"
        if constrained:
            ec.prepare(self.model, CONFIG)
        optimizer = torch.optim.Adam(ec.param_groups(self.model, lr=stage.lr))
        full_lrs = [group["lr"] for group in optimizer.param_groups]
        for epoch in range(self._restore(stage, optimizer), stage.epochs):
            started = time.monotonic()
            loss = self._epoch(stage, epoch, optimizer, full_lrs)
            self._save(stage, optimizer, epoch + 1)
            record = {"stage": stage.name, "epoch": epoch + 1, "loss": loss}
            record["held_out_error_percent"] = self.error_percent()
            if constrained:
                path = self.out / f"epoch-{epoch + 1}.ect"
                record["file_bytes"] = ec.save_file(self.model, path)
                record["nonzero_percent"] = nonzero_percent(ec.load_file(path))
            record["seconds"] = time.monotonic() - started
            print(json.dumps(record), flush=True)

    def _save(self, stage: Stage, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        checkpoint = self.out / f"{stage.name}.pt"
        state = {"settings": vars(self.settings), "epochs": epochs}
        state |= {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").replace(checkpoint)

    def _restore(self, stage: Stage, optimizer: torch.optim.Optimizer) -> int:
        """Load the stage's checkpoint; the epochs that are done, 0 without one."""
        checkpoint = self.out / f"{stage.name}.pt"
        if not checkpoint.exists():
            return 0
        saved = torch.load(checkpoint, weights_only=True)
        if saved["settings"] != vars(self.settings):
            raise SystemExit(f"{checkpoint} is of {saved['settings']}: choose another --out")
        self.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return int(saved["epochs"])

    def _epoch(
        self, stage: Stage, epoch: int, optimizer: torch.optim.Optimizer, full_lrs: list[float]
    ) -> float:
        """One pass over the training images; the mean loss without the penalty."""
        # the same order and flips however often the run was resumed
        generator = torch.Generator().manual_seed(
            1000 * self.settings.seed + epoch + (500 if stage.alpha else 0)
        )
        order = torch.randperm(len(self.images), generator=generator)
        steps = len(order) // self.settings.batch
        losses = []
        self.model.train()
        for step, chosen in enumerate(order.split(self.settings.batch)[:steps]):
            progress = (epoch + step / steps) / stage.epochs
            for group, full in zip(optimizer.param_groups, full_lrs, strict=True):
                group["lr"] = full * lr_share(progress)
            loss = self._loss(self.images[chosen], generator)
            objective = loss
            if stage.alpha:
                objective = loss + ec.penalty(
                    self.model,
                    stage.alpha * ramp(progress, RAMP),
                    len(self.images),
                    refresh=step % REFRESH == 0,
                )
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            losses.append(loss.item())
            if step % 50 == 0:
                print(f"{stage.name} {epoch + 1} step {step}/{steps} {losses[-1]:.3f}", flush=True)
        return sum(losses) / steps

    def _loss(self, batch: Split, generator: torch.Generator) -> Tensor:
        flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
        images = pixels(batch.images)
        images = torch.where(flip, images.flip(3), images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(images.to(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), batch.labels)

    @torch.no_grad()
    def error_percent(self) -> float:
        """Of the hard network, on the held-out images."""
        with torch.autocast("cpu", torch.bfloat16):
            return evaluate(self.model.eval(), self.held_out).error_percent

    @torch.no_grad()
    def finish(self) -> dict[str, object]:
        """Harden, re-estimate batch norms, write, and evaluate what was read back."""
        constrained = [name for name, value in self.model.named_parameters() if value.ndim > 1]
        ec.convert(self.model)
        few = self.images.images[:RE_ESTIMATED].split(self.settings.batch)
        with torch.autocast("cpu", torch.bfloat16):
            update_bn(map(pixels, few), self.model)
        file_bytes = ec.save_file(self.model, self.out / "model.ect")
        weights = {name: self.model.state_dict()[name] for name in constrained}
        weights_bytes = ec.save_file(weights, self.out / "weights.ect")
        self.model = ec.load_model(vgg_like(), self.out / "model.ect")
        return {
            "file_bytes": file_bytes,
            "weights_bytes": weights_bytes,
            "weights": sum(tensor.numel() for tensor in weights.values()),
            "held_out_error_percent": self.error_percent(),
            "nonzero_percent": {
                "all": nonzero_percent(weights),
                **{name: nonzero_percent({name: tensor}) for name, tensor in weights.items()},
            },
        }


def nonzero_percent(tensors: dict[str, Tensor]) -> float:
    """Share of nonzero values in all tensors of two dimensions or more."""
    weights = [tensor for tensor in tensors.values() if tensor.ndim > 1]
    nonzeros = sum(int(tensor.count_nonzero()) for tensor in weights)
    return 100 * nonzeros / sum(tensor.numel() for tensor in weights)


def lr_share(progress: float) -> float:
    return min(progress / WARM_UP, 1.0) * (1 + math.cos(math.pi * progress)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/vgg"))
    parser.add_argument("--keep", type=Path, help="name, without its ending, of the copies")
    parser.add_argument("--float-epochs", type=int, default=2)
    parser.add_argument("--constrained-epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--float-lr", type=float, default=1e-3)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--alpha", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    chosen = vars(parser.parse_args())
    out, keep = chosen.pop("out"), chosen.pop("keep")
    settings = Settings(**chosen)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    trainer = Trainer(settings, out)
    trainer.run(Stage("float", settings.float_epochs, settings.float_lr))
    trainer.run(Stage("constrained", settings.constrained_epochs, settings.lr, settings.alpha))
    result = {"settings": vars(settings)} | trainer.finish()
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    if keep:
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(out / "weights.ect", keep.with_suffix(".ect"))
        shutil.copy(out / "result.json", keep.with_suffix(".json"))


if __name__ == "__main__":
    main()
