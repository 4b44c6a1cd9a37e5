"""What is said of a network that is asked."""

import pytest
import torch

from ectorch.experiments.data import Split
from ectorch.experiments.evaluation import evaluate


def test_label_bits_are_the_code_length_of_the_labels():
    class Uniform(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 8)

    split = Split(torch.zeros(2500, 1, 28, 28, dtype=torch.uint8), torch.zeros(2500).long())
    result = evaluate(Uniform(), split)
    assert result.label_bits == pytest.approx(3 * 2500)
    assert result.error_percent == 0
