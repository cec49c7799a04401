from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.masks import OBJECTS
from rsiccllm.model.difference import (
    FACTS,
    ChangeMap,
    fact_cells,
    fact_loss,
    fact_target,
    look_of,
    map_loss,
    place_code,
    unpatch,
)
from rsiccllm.model.processor import load_processor


def test_unpatch_undoes_the_processor(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (112, 140, 3), dtype=np.uint8))
    pixels = processor.encode_prompt("what?", [picture])["pixel_values"]
    found = unpatch(pixels[None], 4, 5, 2, 14)[0]
    images = processor.image_processor
    expected = (np.asarray(picture) / 255 - images.image_mean) / images.image_std
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-5)


def test_a_place_has_one_code_at_any_grid() -> None:
    coarse, fine = (place_code(side, side, torch.device("cpu")) for side in (16, 48))
    torch.testing.assert_close(coarse[:, 2, 5], fine[:, 7, 16], atol=0.02, rtol=0)
    # The top left cell of an 8 x 8 grid lies on the first anchor, its neighbour one anchor's distance from it.
    code = place_code(8, 8, torch.device("cpu"))
    assert float(code[0, 0, 0] - code[0, 0, 1]) == pytest.approx(4 * (1 - np.exp(-0.5)))
    torch.testing.assert_close(code.mean((1, 2)), torch.zeros(64), atol=1e-5, rtol=0)


def test_map_loss_by_hand() -> None:
    # Logit 0 is a chance of 1/2: -log(1/2) whatever the target; the pair without a mask does not count.
    maps = [torch.zeros(1, 2), torch.full((2, 2), 9.0)]
    assert float(map_loss(maps, [torch.tensor([[1.0, 0.25]]), None])) == pytest.approx(np.log(2))
    unsupervised = map_loss([maps[1].requires_grad_()], [None])
    unsupervised.backward()
    assert float(unsupervised.detach()) == 0
    assert maps[1].grad is not None
    assert not maps[1].grad.any()


def told(*chances: dict[tuple[str, str], float]) -> torch.Tensor:
    """[FACTS, 1, cells] log probabilities, of the facts given and next to nothing of the others."""
    grid = torch.full((len(FACTS), 1, len(chances)), -20.0)
    for cell, facts in enumerate(chances):
        for fact, chance in facts.items():
            grid[FACTS.index(fact), 0, cell] = np.log(chance)
    return grid


HOUSE, POND = ("building", "appear"), ("water", "disappear")


def test_fact_target_by_hand() -> None:
    target = fact_target([HOUSE, POND, HOUSE])
    assert target[FACTS.index(HOUSE)] == target[FACTS.index(POND)] == 0.5
    assert float(target.sum()) == 1
    assert not fact_target([]).any()


def test_fact_loss_by_hand() -> None:
    maps = [torch.tensor([[0.0, 2.0]])]
    facts = [told({HOUSE: 0.5, POND: 0.5}, {HOUSE: 0.25, POND: 0.75})]
    # With a mask: the mean over changed area, 0.5 of the first cell and all of the second.
    masked = fact_loss(maps, facts, [torch.tensor([[0.5, 1.0]])], [fact_target([HOUSE])])
    assert float(masked) == pytest.approx((0.5 * np.log(2) + np.log(4)) / 1.5, abs=1e-6)
    # Without one: weighted by the chance of change, and the surest cell says that there is a change.
    chance = 1 / (1 + np.exp(-np.array([0.0, 2.0])))
    what = (chance[0] * np.log(2) + chance[1] * np.log(4)) / chance.sum()
    blind = fact_loss(maps, facts, [None], [fact_target([HOUSE])])
    assert float(blind) == pytest.approx(what + np.log(1 + np.exp(-2)), abs=1e-6)
    # Nothing changed: with a mask that is the map's own loss; without one the surest cell must be unsure.
    assert float(fact_loss(maps, facts, [torch.zeros(1, 2)], [fact_target([])])) == 0
    assert float(fact_loss(maps, facts, [None], [fact_target([])])) == pytest.approx(np.log(1 + np.exp(2)), abs=1e-6)
    # Two pairs, one of them with unknown facts, which does not count.
    both = fact_loss(maps * 2, facts * 2, [None, None], [fact_target([HOUSE]), None])
    assert float(both) == pytest.approx(float(blind))


def test_facts_unknown_of_every_pair_give_a_gradient_of_zero() -> None:
    facts = told({HOUSE: 1.0}).requires_grad_()
    loss = fact_loss([torch.zeros(1, 1)], [facts], [None], [None])
    loss.backward()
    assert float(loss.detach()) == 0
    assert facts.grad is not None
    assert not facts.grad.any()


def test_pairs_of_other_sizes_in_one_batch_are_each_treated_alone() -> None:
    torch.manual_seed(0)
    module = ChangeMap(tokens=8, merge=2, patch=4, width=32)
    torch.nn.init.normal_(module.out.weight, std=0.02)
    grids = [(2, 3), (2, 3), (4, 2), (4, 2), (2, 3), (2, 3)]
    features = [torch.randn(rows * cols, 8) for rows, cols in grids]
    pixels = torch.randn(sum(rows * cols * 4 for rows, cols in grids), 3 * 2 * 16)
    together = module.enhance(features, pixels, grids)
    starts = np.cumsum([0, *(rows * cols * 4 for rows, cols in grids)])
    for pair in range(3):
        at = slice(2 * pair, 2 * pair + 2)
        alone = module.enhance(features[at], pixels[starts[2 * pair] : starts[2 * pair + 2]], grids[at])
        torch.testing.assert_close(together.features[2 * pair + 1], alone.features[1])
        torch.testing.assert_close(together.maps[pair], alone.maps[0])
        torch.testing.assert_close(together.facts[pair], alone.facts[0])
        torch.testing.assert_close(together.looks[pair], alone.looks[0])
        assert together.looks[pair].shape == (2, 2 * 32)
        assert together.features[2 * pair].equal(features[2 * pair])
        rows, cols = grids[2 * pair]
        assert together.maps[pair].shape == (2 * rows, 2 * cols)
        assert together.facts[pair].shape == (len(FACTS), 2 * rows, 2 * cols)
        torch.testing.assert_close(together.facts[pair].exp().sum(0), torch.ones(2 * rows, 2 * cols))


def test_a_look_is_mean_and_spread_of_each_feature() -> None:
    cells = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])  # one image, two features, two cells
    torch.testing.assert_close(look_of(cells), torch.tensor([[2.0, 5.0, 2**0.5, 0.0]]))
    many = 100 + torch.randn(3, 4, 7, 5)
    torch.testing.assert_close(look_of(many), torch.cat([many.mean((2, 3)), many.std((2, 3))], 1))


def test_fact_cells_by_hand() -> None:
    # Four pixels in one row, two cells: a tree went where a house came, then a house came alone, then nothing twice.
    tree, house = OBJECTS.index("tree") + 1, OBJECTS.index("building") + 1
    objects = torch.tensor([[[tree, 0, 0, 0]], [[house, house, 0, 0]]], dtype=torch.uint8)
    cells = fact_cells(objects, 1, 2)
    assert cells.shape == (len(FACTS), 1, 2)
    assert cells[FACTS.index(("building", "appear"))].tolist() == [[1.0, 0.0]]
    assert cells[FACTS.index(("tree", "disappear"))].tolist() == [[0.5, 0.0]]
    assert float(cells.sum()) == 1.5
    facts = [told({HOUSE: 0.5, ("tree", "disappear"): 0.25}, {HOUSE: 0.1})]
    # Cross-entropy over the area of each fact: (1 x log 2 + 0.5 x log 4) / 1.5.
    loss = fact_loss([torch.zeros(1, 2)], facts, [torch.tensor([[1.0, 0.0]])], [cells])
    assert float(loss) == pytest.approx((np.log(2) + 0.5 * np.log(4)) / 1.5, abs=1e-6)
