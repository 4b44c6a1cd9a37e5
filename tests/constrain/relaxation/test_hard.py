import torch

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import bit_size
from ectorch.constrain.relaxation import Bracket, Hard

WEIGHT = 0.1 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
GRID = Codebook.from_log_gaps(torch.tensor([0.03]).log(), 9)


def test_without_strength_the_assignment_is_the_nearest_level():
    variables = {"weight": WEIGHT}
    assert torch.equal(
        Hard(strength=0.0).symbols(variables, GRID), Bracket().symbols(variables, GRID)
    )


def test_it_minimises_distance_plus_charge():
    hard = Hard(strength=0.2)
    symbols = hard.symbols({"weight": WEIGHT}, GRID)
    counts = torch.zeros(9, dtype=torch.float64)
    lower, fraction = GRID.locate(WEIGHT)
    counts.index_add_(0, lower.flatten(), 1 - fraction.flatten().double())
    counts.index_add_(0, lower.flatten() + 1, fraction.flatten().double())
    falling = torch.cat(
        [counts[:5].cummax(0).values[:4], counts[4:].flip(0).cummax(0).values.flip(0)]
    )
    falling[4] = counts.max() if counts[4] < counts.max() else counts[4]
    charge = (counts.sum() / falling.clamp(min=1)).log2().clamp(min=0)
    cost = (WEIGHT[..., None] - GRID.values).double().square() + 0.2 * GRID.step**2 * charge
    chosen = cost.gather(-1, symbols[..., None]).squeeze(-1)
    assert torch.allclose(chosen, cost.min(-1).values, rtol=1e-5)


def test_more_strength_is_a_smaller_network():
    counts = [Hard(strength=s).counts({"weight": WEIGHT}, GRID) for s in (0.0, 0.1, 0.5, 2.0)]
    sizes = [bit_size(c).item() for c in counts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
