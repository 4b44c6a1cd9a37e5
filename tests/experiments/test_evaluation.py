import torch

import ectorch as ec
from ectorch.experiments.evaluation import expected_network
from ectorch.experiments.networks import NETWORKS


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
