from __future__ import annotations

import pytest
import torch

from rsiccllm.errors import InputError
from rsiccllm.model.fusion import Fusion, attend
from rsiccllm.model.variants import Variant

PAPER: list[Variant] = ["paper", "paper-no-pixel", "paper-no-texture", "paper-mean-texture"]


def parts(rows: int, cols: int, pairs: int = 2) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(rows * cols)
    features = torch.randn(2, pairs, rows * cols, 8)
    pixels = torch.randn(2, pairs, rows * cols, 4 * 3 * 2 * 16)  # 2 x 2 patches of 4 pixels, each twice in time
    return (*features, *pixels)


def test_attention_by_hand() -> None:
    query, key = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    added, weights = attend(query, key)
    first = float(torch.tensor(2 / 2**0.5).sigmoid())  # scores 2 / sqrt(2) and 0
    assert weights.flatten().tolist() == pytest.approx([first, 1 - first])
    assert added.flatten().tolist() == pytest.approx([first, 4 * (1 - first)])


@pytest.mark.parametrize("variant", PAPER)
def test_shapes_zero_start_and_gradients(variant: Variant) -> None:
    module = Fusion(tokens=8, merge=2, patch=4, variant=variant, width=16, angles=6)
    added, *others = module(*parts(2, 3), 2, 3)
    assert others == [None, None, None], "no map, no facts and no look"
    assert added.shape == (2, 6, 8)
    assert not added.any()
    torch.nn.init.normal_(module.out.weight)
    module(*parts(2, 3), 2, 3)[0].square().sum().backward()
    used = {name.split(".")[0] for name, weight in module.named_parameters() if weight.grad is not None}
    pixel, texture = {"pixel"}, {"texture"}
    expected = {"paper-no-pixel": texture, "paper-no-texture": pixel}.get(variant, pixel | texture)
    assert used == expected | {"out"}


@pytest.mark.parametrize("variant", PAPER)
def test_no_pair_looks_at_another(variant: Variant) -> None:
    module = Fusion(tokens=8, merge=2, patch=4, variant=variant, width=16, angles=6)
    torch.nn.init.normal_(module.out.weight)
    given = parts(3, 2, pairs=3)
    together = module(*given, 3, 2)[0]
    alone = module(*(part[1:2] for part in given), 3, 2)[0]
    torch.testing.assert_close(together[1:2], alone)


def test_a_coarser_grid_of_votes() -> None:
    module = Fusion(tokens=8, merge=2, patch=4, variant="paper", width=16, angles=6, stride=8)
    images = torch.cat([ground(None), ground((0, 2))])
    assert module._texture(images, 8).shape == (1, 64, 8), "one cell a token, eight kernels"
    assert module(*parts(2, 3), 2, 3)[0].shape == (2, 6, 8)
    with pytest.raises(InputError, match=r"difference\.stride: 3 does not divide a token's 8 pixels"):
        Fusion(tokens=8, merge=2, patch=4, variant="paper", stride=3)


def ground(changed: tuple[int, int] | None, light: float = 0.0) -> torch.Tensor:
    """[1, 3, 64, 64]: noisy ground with a fixed house, and another one at (row, column) of a grid of 4 x 4."""
    torch.manual_seed(3)
    image = 0.3 + 0.02 * torch.randn(1, 3, 64, 64)
    image[:, :, 36:44, 4:12] = 0.8
    if changed:
        top, left = 16 * changed[0], 16 * changed[1]
        image[:, :, top + 3 : top + 13, left + 3 : left + 13] = 0.9
    return image + light


def test_an_offset_of_the_light_is_not_a_change() -> None:
    module = Fusion(tokens=8, merge=2, patch=4, variant="paper", width=16, angles=16)

    def found(after: torch.Tensor) -> torch.Tensor:
        return module._texture(torch.cat([ground(None), after]), 8).unflatten(2, (8, -1))[0, :, :7].abs().mean()

    assert found(ground(None, light=0.2)) < 1e-2
    assert found(ground((0, 2))) > 20 * found(ground(None, light=0.2))


def test_the_texture_differs_most_where_a_house_was_built() -> None:
    module = Fusion(tokens=8, merge=2, patch=8, variant="paper", width=16, angles=16)
    for place in ((0, 2), (3, 3), (1, 0)):
        tokens = module._texture(torch.cat([ground(None), ground(place)]), 4)
        assert int(tokens[0].abs().mean(-1).argmax()) == 4 * place[0] + place[1]


def test_after_50_updates_what_is_added_is_not_nothing_and_the_attention_not_flat() -> None:
    """With the norm over the whole image and no spread, dS is 1e-5 and the softmax flat: the path would be inert."""
    torch.manual_seed(0)
    module = Fusion(tokens=8, merge=2, patch=8, variant="paper", width=16, angles=16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    places = [(0, 2), (3, 3), (1, 0), (2, 2)]
    images = torch.cat([*[ground(None)] * 4, *(ground(place) for place in places)])
    # Qwen's patches: [images, tokens, patches of a token, 3, time, patch, patch]
    patches = images.reshape(8, 3, 4, 2, 8, 4, 2, 8).permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    one, two = patches.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(8, 16, -1).chunk(2)
    tokens = torch.randn(4, 16, 8)
    wanted = torch.zeros_like(tokens)
    for pair, (row, col) in enumerate(places):
        wanted[pair, 4 * row + col, pair] = 4.0

    def loss() -> torch.Tensor:
        return (module(tokens, tokens, one, two, 4, 4)[0] - wanted).square().mean()

    start = float(loss().detach())
    for _ in range(50):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < 0.5 * start
    assert module(tokens, tokens, one, two, 4, 4)[0].norm() > 0.1 * tokens.norm()
    query = module.pixel(torch.nn.functional.pixel_unshuffle(images[4:] - images[:4], 16).flatten(2).transpose(1, 2))
    _, weights = attend(query, module.texture(module._texture(images, 4)))
    entropy = -(weights * weights.clamp(min=1e-9).log()).sum(-1)  # [pairs, tokens]
    at_change = torch.stack([entropy[pair, 4 * row + col] for pair, (row, col) in enumerate(places)])
    assert at_change.mean() < 0.8 * torch.log(torch.tensor(16.0))
