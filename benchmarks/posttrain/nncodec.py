"""What NNCodec makes of the trained networks: bytes and quality over its quantisation parameter.

    python benchmarks/posttrain/nncodec.py --peer PYTHON [--networks NAME ...] [--settings NAME ...]

PYTHON is an interpreter that has nncodec 2.1.3; how to install that is in peer/nncodec_side.py.
Writes benchmarks/results/posttrain-nncodec.json. Points go to runs/posttrain/nncodec.jsonl as they
are measured, and are not measured again.

NNCodec is the reference software of ISO/IEC 15938-17. `SETTINGS` are those that do without
training: with and without dependent quantisation; with and without its rule for a parameter a
tensor (``opt_qp``); biases and norms at the default of ``nonweight_qp``, or coarser, where nothing
is lost yet; ``lambda_scale``, which weighs rate against error in the quantiser and which only
`nncodec.nnc.compress` takes; and inference-optimised quantisation (``ioq``), which tries eight
other parameters for each tensor on data. It is given minus the divergence from the float network
on the calibration inputs, which is finer than an accuracy. It codes and runs a network hundreds of
times, for which MiniLM is too large.

Two of its tools have nothing to do here. Local scaling adaptation trains. Folding of batch
normalisation needs a norm right behind a layer's weights: the CIFAR network has a ReLU between, and
the others have no such norms.

Each setting's parameter rises until the network is clearly hurt. Files are counted as what
``compress`` returns, and quality is of the arrays that ``decompress`` gives back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from provenance import RESULTS, ROOT, provenance, write_results

from posttrain.log import Row, append_row, find_row, read_rows
from posttrain.networks import load
from posttrain.trained import Quality, Trained

OUT = RESULTS / "posttrain-nncodec.json"
LOG = ROOT / "runs/posttrain/nncodec.jsonl"
SIDE = Path(__file__).parent / "peer/nncodec_side.py"
FINE = {"use_dq": True, "nonweight_qp": -32}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dq": False},
    "plain opt_qp": {"use_dq": False, "opt_qp": True},
    "dq": {"use_dq": True},
    "dq opt_qp": {"use_dq": True, "opt_qp": True},
    "dq fine": FINE,
    "dq opt_qp fine": FINE | {"opt_qp": True},
    "dq lambda fine": FINE | {"lambda_scale": 1.0},
    "dq opt_qp lambda fine": FINE | {"opt_qp": True, "lambda_scale": 1.0},
    "dq ioq fine": FINE | {"ioq": True},
    "dq opt_qp ioq fine": FINE | {"opt_qp": True, "ioq": True},
}
LAST_QP = 0


@dataclass(frozen=True)
class Range:
    """Parameters ``first``, ``first + step``, ... until quality is past ``worst``."""

    first: int
    step: int
    worst: float
    ioq: bool = True


RANGES = {
    "mnist-cnn": Range(-24, 1, 10.0),
    "g2p-en": Range(-36, 2, 70.0),
    "cifar10-cnn": Range(-32, 2, 50.0),
    "minilm": Range(-38, 2, 0.9, ioq=False),
}


class Peer:
    """A process that codes arrays with NNCodec."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.weights, self.decoded = folder / "weights.npz", folder / "decoded.npz"
        self.versions = self._read()

    def give(self, model: nn.Module) -> None:
        """Set what is coded from now on."""
        np.savez(self.weights, **{name: value.numpy() for name, value in _floats(model).items()})

    def code(self, arguments: Mapping[str, Any], judge: Quality, model: nn.Module) -> Row:
        """Code the arrays, and load into ``model`` what comes back."""
        paths = {"weights": str(self.weights), "decoded": str(self.decoded)}
        self._write({"arguments": dict(arguments), **paths})
        while (answer := self._read()).get("judge"):
            self._load(model)
            self._write(judge(model))
        self._load(model)
        return answer

    def _load(self, model: nn.Module) -> None:
        state = _floats(model)
        with np.load(self.decoded) as file:
            if set(file.files) != set(state):
                raise ValueError(f"other names came back: {set(file.files) ^ set(state)}")
            for name, value in state.items():
                value.copy_(torch.from_numpy(file[name].reshape(value.shape)))

    def _write(self, line: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def _read(self) -> Row:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the peer ended: see what it wrote above")
        return json.loads(line)


@contextmanager
def start(python: str) -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(SIDE)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            try:
                yield Peer(process, Path(folder))
            finally:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="an interpreter that has nncodec")
    parser.add_argument("--networks", nargs="+", choices=RANGES, default=list(RANGES))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--report", action="store_true", help="measure nothing: from the log")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance([0])
    made["command"] = made["command"].replace(arguments.peer, "PYTHON")  # is a path of a machine
    with start(arguments.peer) as peer:
        for name in () if arguments.report else arguments.networks:
            measure(load(name), arguments.settings, peer, arguments.log, made["commit"])
        versions = peer.versions
    write_results(arguments.out, made | {"peer": versions, "points": read_rows(arguments.log)})


def measure(trained: Trained, settings: list[str], peer: Peer, log: Path, commit: str) -> None:
    """Measure what the log lacks; ``commit`` is written beside each point."""
    given, known, judge = RANGES[trained.name], read_rows(log), likeness(trained)
    peer.give(trained.model)
    for setting in settings:
        if "ioq" in SETTINGS[setting] and not given.ioq:
            continue
        for qp in range(given.first, LAST_QP, given.step):
            key = {"network": trained.name, "setting": setting, "qp": qp}
            row = find_row(known, key)
            if row is None:
                arguments = {"qp": qp, "row_skipping": True} | SETTINGS[setting]
                coded = peer.code(arguments, judge, trained.model)
                quality = {"quality": trained.quality(trained.model)}
                more = {name: measured(trained.model) for name, measured in trained.more.items()}
                row = key | quality | more | coded | {"commit": commit}
                append_row(log, row)
                print(json.dumps(row), flush=True)
            sign = 1 if trained.lower_is_better else -1
            if sign * row["quality"] > sign * given.worst:
                break


def likeness(trained: Trained) -> Quality:
    """Minus the divergence of a network's outputs from the float network's, on the calibration."""

    @torch.inference_mode()
    def outputs(model: nn.Module) -> Tensor:
        found = [model(batch).flatten(0, -2) for batch in trained.calibration]
        return torch.cat(found).double()

    expected = outputs(trained.model)

    def judge(model: nn.Module) -> float:
        found = outputs(model)
        if trained.divergence == "cosine":
            return float(nn.functional.cosine_similarity(found, expected).mean()) - 1
        logs = [part.log_softmax(1) for part in (found, expected)]
        return -float(nn.functional.kl_div(*logs, reduction="batchmean", log_target=True))

    return judge


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Its state without counters, shared with it."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


if __name__ == "__main__":
    main()
