"""Four networks that others trained, out of packages: `load` one by its name.

| name | trained by | parameters | quality |
|---|---|---|---|
| mnist-cnn | ccexam 1.0.0 | 421,642 | error on 10,000 test images |
| cifar10-cnn | cifar-10-model 7.4.0 | 969,418 | error on 10,000 test images |
| g2p-en | g2p-en 2.1.0 | 834,890 | error on 3,000 words of cmudict |
| minilm | sentence-transformers | 22,713,216 | cosine to its embeddings of 200 sentences |
"""

from __future__ import annotations

from collections.abc import Callable

from ectorch.errors import DataError
from posttrain.images import cifar10_cnn, mnist_cnn
from posttrain.minilm import minilm
from posttrain.phonemes import g2p_en
from posttrain.trained import Trained

NETWORKS: dict[str, Callable[[int], Trained]] = {
    "mnist-cnn": mnist_cnn,
    "cifar10-cnn": cifar10_cnn,
    "g2p-en": g2p_en,
    "minilm": minilm,
}


def load(name: str, seed: int = 0) -> Trained:
    """One of `NETWORKS`, anew with each call; ``seed`` draws the calibration inputs.

    Raises:
        DataError: where there is no such network, or its package or data cannot be had.
    """
    if name not in NETWORKS:
        raise DataError(f"no network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name](seed)
