"""Networks of other libraries, with all defaults: prepare, three steps, finalize, save, load.

    pip install --constraint constraints.txt '.[torch]' transformers pillow
    pip install --no-deps timm
    python benchmarks/foreign.py --out benchmarks/results/foreign.json

GPT-2 and BERT of Transformers, four networks of timm and an LSTM of torch, at their real sizes with
random weights. For each: the share of its bytes that is constrained, what `finalize` changed in the
outputs beyond `convert` (relative to their largest), the bytes of the file, and that the loaded
network computes the same, bit for bit. timm imports torchvision, of which its networks need nothing
here: it is stubbed where it lacks.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance, write_results
from torch import Tensor, nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.rewrite.units import remove_dead_units

CLASSES, TOKENS = 10, 32
TIMM = ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100", "convnext_atto")


class LSTMTagger(nn.Module):
    """Torch's own LSTM between an embedding and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5000, 128)
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(512, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0].mean(1))


def tokens(vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (2, TOKENS))


def transformers_network(name: str) -> tuple[nn.Module, Tensor]:
    import transformers

    if name == "gpt2":
        config = transformers.GPT2Config(num_labels=CLASSES, pad_token_id=0)
        return transformers.GPT2ForSequenceClassification(config), tokens(config.vocab_size)
    config = transformers.BertConfig(num_labels=CLASSES)
    return transformers.BertForSequenceClassification(config), tokens(config.vocab_size)


def timm_network(name: str) -> tuple[nn.Module, Tensor]:
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Stubs())
    import timm

    return timm.create_model(name, num_classes=CLASSES), torch.randn(2, 3, 224, 224)


class _Anything(type):
    def __getattr__(cls, name: str) -> str:
        return name


class _Stub(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision, of which timm takes names alone."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def lstm() -> tuple[nn.Module, Tensor]:
    return LSTMTagger(), tokens(5000)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "torch LSTM": lstm,
    **{f"timm {name}": lambda name=name: timm_network(name) for name in TIMM},
    "transformers BERT": lambda: transformers_network("bert"),
    "transformers GPT-2": lambda: transformers_network("gpt2"),
}


def logits(model: nn.Module, inputs: Tensor) -> Tensor:
    output = model(inputs)
    return output if isinstance(output, Tensor) else output.logits


def measure(make: Callable[[], tuple[nn.Module, Tensor]]) -> dict[str, Any]:
    torch.manual_seed(0)
    model, inputs = make()
    parameters = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ec.prepare(model)
        coverage = ec.coverage(model)
        optimizer = torch.optim.AdamW(ec.param_groups(model, lr=1e-4))
        labels = torch.arange(len(inputs)) % CLASSES
        losses = []
        for _ in range(3):
            loss = F.cross_entropy(logits(model, inputs), labels)
            (loss + ec.penalty(model, 0.01, examples=50_000)).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            remove_dead_units(model, optimizer)
        with torch.no_grad():
            plain = logits(ec.convert(copy.deepcopy(model)).eval(), inputs)
            final = logits(ec.finalize(model), inputs)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder, "model.ect")
        started = time.monotonic()
        size = ec.save_file(model, path)
        seconds = time.monotonic() - started
        fresh, _ = make()
        loaded = logits(ec.load_model(fresh, path).eval(), inputs)
    return {
        "parameters": parameters,
        "constrained_share": coverage.constrained_share,
        "losses": losses,
        "float_bytes": 4 * parameters,
        "file_bytes": size,
        "save_seconds": seconds,
        "finalize_relative_change": float((plain - final).abs().max() / plain.abs().max()),
        "loaded_equal": torch.equal(loaded, final),
        "warnings": sorted({str(each.message)[:300] for each in caught}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    arguments = parser.parse_args()
    made = provenance(seeds=[0], packages=("transformers", "timm"))
    rows = {}
    for name in arguments.only:
        rows[name] = measure(NETWORKS[name])
        print(name, json.dumps(rows[name]), flush=True)
        gc.collect()
    write_results(arguments.out, made | {"networks": rows})
    if not all(row["loaded_equal"] for row in rows.values()):
        sys.exit("a loaded network differs from the saved one")


if __name__ == "__main__":
    main()
