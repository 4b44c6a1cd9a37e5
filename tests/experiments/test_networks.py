import pytest
import torch

from ectorch.experiments.networks import NETWORKS
from ectorch.rewrite.chains import find_chains


@pytest.fixture
def airbench():
    torch.manual_seed(0)
    return NETWORKS["airbench-like"]()


def test_airbench_asks_an_image_and_its_mirror_once_it_is_trained(airbench):
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        airbench(images)  # batch norms have seen something
        alone = airbench.layers.eval()((torch.cat([images, images.flip(3)]) - 0.4733) / 0.2516)
        logits = airbench.eval()(images)
        assert torch.allclose(logits, (alone[:2] + alone[2:]) / 2, atol=1e-4)
        assert torch.allclose(logits, airbench(images.flip(3)), atol=1e-4)
        assert not torch.allclose(alone[:2], alone[2:], atol=1e-3)


def test_airbench_hands_on_what_it_is_given_at_the_start(airbench):
    convolution = airbench.layers[2]
    maps = torch.rand(1, 24, 5, 5)
    assert torch.equal(convolution(maps)[:, :24], maps)
    assert convolution(maps)[:, 24:].any()


def test_airbench_has_the_same_chains_in_both_modes(airbench):
    training, evaluating = (
        [(id(chain.first), id(chain.second)) for chain in find_chains(airbench.train(mode), True)]
        for mode in (True, False)
    )
    assert training == evaluating
    assert len(training) == 7
