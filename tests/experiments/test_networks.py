import pytest
import torch

from ectorch.experiments.networks import NETWORKS, identify
from ectorch.rewrite.chains import find_chains

PARAMETERS = {
    "lenet-300-100": 266_610,
    "lenet-5-caffe": 431_080,
    "vgg-like": 14_987_210,
    "vgg-like-16": 939_770,
    "resnet-20": 269_722,
    "resnet-20-4": 4_286_026,
    "airbench-like": 1_972_802,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_known_by_their_tensors(name):
    model = NETWORKS[name]()
    shapes = {key: tuple(t.shape) for key, t in model.state_dict().items()}
    assert identify(shapes) == name
    assert model(torch.zeros(2, *model.image_shape)).shape == (2, 10)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == PARAMETERS[name]


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
