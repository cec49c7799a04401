from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rsiccllm.training.dnpo import chosen_and_rejected, chosen_answers, preference_losses
from rsiccllm.training.losses import (
    anchor_loss,
    answer_log_probs,
    dpo_loss,
    dpop_loss,
    entropy,
    reverse_kl,
    sampled_kl,
    softmax_dpo_loss,
)
from rsiccllm.training.recipe import DNPORecipe, PreferenceLoss


def test_answer_log_probs_by_hand() -> None:
    # Two tokens: with logits (0, ln 3) their probabilities are 1/4 and 3/4.
    logits = torch.tensor([[0.0, math.log(3)]] * 3)
    found = answer_log_probs(logits, torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1]), 2)
    assert found.tolist() == pytest.approx([math.log(3 / 4 * 1 / 4), math.log(3 / 4)])


def test_dpo_loss_by_hand() -> None:
    # beta * margin = 0.5 * (1 - (-1)) = 1, and -log sigmoid(1) = log(1 + 1/e).
    found = dpo_loss(torch.tensor([1.0]), torch.tensor([-1.0]), beta=0.5)
    assert float(found) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(dpo_loss(torch.zeros(1), torch.zeros(1), 0.1)) == pytest.approx(math.log(2))


def test_reverse_kl_value_and_gradient_by_hand() -> None:
    # Policy (1/4, 3/4) against reference (1/2, 1/2).
    policy = torch.tensor([[0.0, math.log(3)]], dtype=torch.float32, requires_grad=True)
    reference = torch.zeros(1, 2, requires_grad=True)
    found = reverse_kl(policy, reference)
    value = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found.item() == pytest.approx(value, abs=1e-6)
    found.sum().backward()
    # d KL / d z_i = p_i * (log(p_i / q_i) - KL).
    expected = [0.25 * (math.log(0.5) - value), 0.75 * (math.log(1.5) - value)]
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert reference.grad is None


def test_sampled_kl_is_unbiased_in_value_and_gradient() -> None:
    """Answers of two tokens over two words, all four of them weighed by their chance: no draw, no noise.

    The policy gives the first word (1/4, 3/4), then after word 0 (1/2, 1/2), after word 1 (4/5, 1/5); the reference is
    uniform. By hand: KL = KL_1 + 1/4 * 0 + 3/4 * KL_2(1).
    """
    table = torch.tensor([[0, math.log(3)], [0, 0], [math.log(4), 0]], requires_grad=True)
    first = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    second = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    chances = {(0, 0): 1 / 8, (0, 1): 1 / 8, (1, 0): 3 / 5, (1, 1): 3 / 20}
    logits = torch.cat([table[[0, 1 + one]] for one, _ in chances])
    labels = torch.tensor([word for answer in chances for word in answer])
    answer_of = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = sampled_kl(logits, torch.zeros(8, 2), labels, answer_of, 4)
    assert found.tolist() == pytest.approx([first, first, first + second, first + second], abs=1e-6)
    (found * torch.tensor(list(chances.values()))).sum().backward()
    # d KL / d z of the first word: as `reverse_kl`'s, and the chance of getting to word 1, p_1 (1 - p_1) = 3/16.
    expected = [
        [0.25 * (math.log(0.5) - first) - 3 / 16 * second, 0.75 * (math.log(1.5) - first) + 3 / 16 * second],
        [0, 0],
        [0.75 * 0.8 * (math.log(1.6) - second), 0.75 * 0.2 * (math.log(0.4) - second)],
    ]
    assert table.grad is not None
    for row, wanted in zip(table.grad.tolist(), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_sampled_kl_credits_a_token_with_what_comes_after_it_alone() -> None:
    """The last token of an answer has nothing after it: its gradient is that of `reverse_kl`, whatever came before."""
    policy = torch.tensor([[0, math.log(3)], [0, math.log(7)]], requires_grad=True)
    sampled_kl(policy, torch.zeros(2, 2), torch.tensor([1, 0]), torch.tensor([0, 0]), 1).sum().backward()
    second = 1 / 8 * math.log(1 / 4) + 7 / 8 * math.log(7 / 4)
    first = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert policy.grad is not None
    assert policy.grad[1].tolist() == pytest.approx(
        [1 / 8 * (math.log(1 / 4) - second), 7 / 8 * (math.log(7 / 4) - second)], abs=1e-6
    )
    # The first token, word 1, also gets second * d log p_1 / dz = second * (-1/4, 1/4).
    assert policy.grad[0].tolist() == pytest.approx(
        [0.25 * (math.log(0.5) - first) - second / 4, 0.75 * (math.log(1.5) - first) + second / 4], abs=1e-6
    )


def test_work_is_done_where_the_logits_lie() -> None:
    """Not where tensors are made by default: the logits of a GPU meet nothing of the processor's."""
    logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
    answer_of = torch.tensor([0, 0, 1])
    with torch.device("meta"):
        found = [
            answer_log_probs(logits, labels, answer_of, 2),
            sampled_kl(logits, logits.flip(0), labels, answer_of, 2),
            softmax_dpo_loss(logits[0], logits[1], torch.tensor([0, 0, 1, 1], device="cpu"), 0.1),
            *chosen_and_rejected(torch.tensor([0, 0, 1, 1], device="cpu")),
        ]
    assert [(values.device.type, len(values)) for values in found] == [("cpu", 2)] * 5


@pytest.mark.parametrize(("tokens", "vocab"), [(7, 11), (11, 7)])
def test_reverse_kl_in_chunks_and_against_torch(tokens: int, vocab: int) -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(2, tokens, vocab).unbind(0)
    whole = torch.nn.functional.kl_div(
        reference.log_softmax(-1), policy.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    for chunk in (1, 3, 100):
        torch.testing.assert_close(reverse_kl(policy, reference, chunk), whole)


def test_the_first_answer_of_a_row_is_compared_with_each_later_one() -> None:
    chosen, rejected = chosen_and_rejected(torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]))
    assert chosen.tolist() == [0, 0, 3, 5, 5, 5]
    assert rejected.tolist() == [1, 2, 4, 6, 7, 8]
    assert chosen_answers(torch.tensor([3, 3, 5, 9, 9])).tolist() == [0, 2, 3]


def test_softmax_dpo_by_hand() -> None:
    # beta 1. Row 0: margins of rejected over chosen ln 2 and ln 3, so -log sigmoid(-ln 5) = ln 6. Row 1: one rejected
    # with margin 0: ln 2, which is DPO's.
    chosen = torch.tensor([1.0, 1.0, 0.5])
    rejected = torch.tensor([1 + math.log(2), 1 + math.log(3), 0.5])
    found = softmax_dpo_loss(chosen, rejected, torch.tensor([4, 4, 7]), beta=1.0)
    assert found.tolist() == pytest.approx([math.log(6), math.log(2)])
    one = softmax_dpo_loss(torch.tensor([0.3]), torch.tensor([-0.9]), torch.tensor([0]), beta=0.2)
    torch.testing.assert_close(one, dpo_loss(torch.tensor([0.3]), torch.tensor([-0.9]), 0.2))


def test_softmax_dpo_gradient_by_hand_and_far_from_zero() -> None:
    # d/d rejected_l of log(1 + sum_k e^{m_k}) = e^{m_l} / (1 + sum_k e^{m_k}): 2/6 and 3/6; to the chosen, minus both.
    chosen = torch.zeros(2, requires_grad=True)
    rejected = torch.tensor([math.log(2), math.log(3)], requires_grad=True)
    softmax_dpo_loss(chosen, rejected, torch.tensor([0, 0]), 1.0).sum().backward()
    assert rejected.grad is not None
    assert chosen.grad is not None
    assert rejected.grad.tolist() == pytest.approx([2 / 6, 3 / 6])
    assert float(chosen.grad.sum()) == pytest.approx(-5 / 6)
    far = torch.tensor([900.0, -900.0], requires_grad=True)
    loss = softmax_dpo_loss(torch.zeros(2), far, torch.tensor([0, 1]), 1.0)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([900.0, 0.0])
    assert far.grad is not None
    assert far.grad.tolist() == pytest.approx([1.0, 0.0])


def test_dpop_by_hand() -> None:
    # The chosen answer lost 0.5: margin 0.5 * (-0.5 - (-2) - 3 * 0.5) = 0. One that gained is DPO's.
    found = dpop_loss(torch.tensor([-0.5, 0.5]), torch.tensor([-2.0, -0.5]), beta=0.5, weight=3.0)
    assert found.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-0.5))])
    torch.testing.assert_close(found[1:], dpo_loss(torch.tensor([0.5]), torch.tensor([-0.5]), 0.5))


def test_anchor_by_hand() -> None:
    # 0.1 * 10 - 0 = 1; 0.1 * -10 - 1 = -2.
    assert float(anchor_loss(torch.tensor([10.0]), 0.1)) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(anchor_loss(torch.tensor([-10.0]), 0.1, 1.0)) == pytest.approx(math.log(1 + math.exp(2)))


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0], [0.0, -1000.0]])
    expected = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2), 0.0]
    for chunk in (1, 2):
        assert entropy(logits, chunk).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("variant", "preference", "anchored"),
    [
        # beta 1/2 and these ratios: margins ln 2, -ln 2 and 0, so ln 3/2, ln 3 and ln 2; over three comparisons.
        ("paper", (math.log(3 / 2) + math.log(3) + math.log(2)) / 3, None),
        # ln(1 + 1/2 + 2) and ln 2; over two rows.
        ("softmax", (math.log(7 / 2) + math.log(2)) / 2, None),
        # The second row's chosen answer lost 2 ln 3, of which a half is taken off its margin 0.
        ("positive", (math.log(3 / 2) + math.log(3) + math.log(1 + math.sqrt(3))) / 3, None),
        # beta * chosen - margin: 0 and -ln 6.
        ("anchored", (math.log(3 / 2) + math.log(3) + math.log(2)) / 3, (math.log(2) + math.log(7)) / 2),
        ("ours", (math.log(7 / 2) + math.log(2)) / 2, (math.log(2) + math.log(7)) / 2),
        # The third answer and the fourth are two tokens: margins ln 2, 0 and ln(3) / 2.
        ("length-normalised", (math.log(3 / 2) + math.log(2) + math.log(1 + 1 / math.sqrt(3))) / 3, None),
    ],
)
def test_the_preference_loss_of_each_variant_by_hand(
    variant: PreferenceLoss, preference: float, anchored: float | None, tmp_path: Path
) -> None:
    """Two rows: a chosen answer with two rejected, and one with one."""
    ratio = 2 * torch.tensor([math.log(2), 0, math.log(4), -math.log(3), -math.log(3)])
    recipe = DNPORecipe(model="m", data=tmp_path, out=tmp_path, learning_rate=1e-4, max_steps=1, variant=variant)
    terms = {"beta": 0.5, "anchor_margin": math.log(2), "positive_weight": 0.5}
    recipe = recipe.model_copy(update=terms)
    lengths, row_of = torch.tensor([1, 1, 2, 2, 1]), torch.tensor([0, 0, 0, 1, 1])
    loss, anchor = preference_losses(recipe, ratio, lengths, row_of)
    assert float(loss) == pytest.approx(preference)
    assert (anchor if anchor is None else float(anchor)) == pytest.approx(anchored)
