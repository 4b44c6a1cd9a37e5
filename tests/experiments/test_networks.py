import pytest
import torch

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.experiments.networks import NETWORKS, check_images, expected_network, identify
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


def test_images_of_another_shape_are_refused():
    check_images("lenet-5-caffe", "digits", torch.zeros(2, 1, 28, 28))
    with pytest.raises(MismatchError, match=r"lenet-5-caffe takes .*cifar-10 are \(3, 32, 32\)"):
        check_images("lenet-5-caffe", "cifar-10", torch.zeros(2, 3, 32, 32))


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


def test_the_expected_network_has_statistics_of_its_own_weights():
    torch.manual_seed(0)
    model = ec.prepare(NETWORKS["resnet-20"](), ec.Config(levels=9))
    images = torch.rand(100, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = expected_network("resnet-20", model, images)
    with torch.no_grad():
        by_statistics, by_batch = network(images), network.train()(images)
    assert torch.allclose(by_statistics, by_batch, atol=0.02)
    assert by_batch.std() > 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
