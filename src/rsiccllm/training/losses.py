"""The losses, each a few lines of arithmetic over next-token logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid, softplus


def answer_log_probs(logits: Tensor, labels: Tensor, answer_of: Tensor, answers: int) -> Tensor:
    """log pi(answer | prompt), summed over each answer's tokens.

    logits: [tokens, vocab]. labels, answer_of: [tokens]. Returns [answers] float32.
    """
    token = -cross_entropy(logits.float(), labels, reduction="none")
    return torch.zeros(answers, device=logits.device).index_add(0, answer_of, token)


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)), Rafailov et al. 2023, equation 7.

    chosen, rejected: [comparisons], each log pi_theta(y|x) - log pi_ref(y|x). beta > 0. Returns [comparisons].
    """
    return -logsigmoid(beta * (chosen - rejected))


def softmax_dpo_loss(chosen: Tensor, rejected: Tensor, row: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-log sum_l exp(beta * (rejected_l - chosen))), S-DPO, Chen et al. 2024 (arXiv 2406.09215).

    Every rejected answer of a row at once: the nearer one is to being preferred, the more it counts. With one it is
    DPO. chosen, rejected: [comparisons] as for `dpo_loss`. row: [comparisons], ascending, which row each is of.
    Returns [rows].
    """
    _, at = row.unique_consecutive(return_inverse=True)
    start = torch.searchsorted(at, at)
    place = torch.arange(len(at), device=at.device) - start
    margins = rejected.new_full((int(at[-1]) + 1, int(place.max()) + 1), -torch.inf)
    margins = margins.index_put((at, place), beta * (rejected - chosen))
    return softplus(margins.logsumexp(-1))


def dpop_loss(chosen: Tensor, rejected: Tensor, beta: float, weight: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected - weight * max(0, -chosen))), DPO-Positive, Pal et al. 2024
    (arXiv 2402.13228).

    What the chosen answer lost against the reference is taken off the margin, so that a margin cannot be won by losing
    both. Arguments and result as for `dpo_loss`; weight is their lambda.
    """
    return -logsigmoid(beta * (chosen - rejected - weight * (-chosen).clamp(min=0)))


def anchor_loss(chosen: Tensor, beta: float, margin: float = 0.0) -> Tensor:
    """-log sigmoid(beta * chosen - margin), the anchored term of mDPO, Wang et al. 2024 (arXiv 2406.11839).

    Holds the chosen answer's reward above `margin` (their delta). chosen: [rows] as for `dpo_loss`. Returns [rows].
    """
    return -logsigmoid(beta * chosen - margin)


def reverse_kl(policy: Tensor, reference: Tensor, chunk: int = 4096) -> Tensor:
    """D_KL(pi_theta || pi_ref) over the whole vocabulary, at each answer token's prefix.

    policy, reference: [tokens, vocab] logits; no gradient flows into `reference`. Returns [tokens] in nats, float32.
    Worked in chunks of tokens, because the float32 log-probabilities of a large vocabulary are big.
    """
    parts = []
    for start in range(0, policy.shape[0], chunk):
        log_p = log_softmax(policy[start : start + chunk].float(), -1)
        log_q = log_softmax(reference[start : start + chunk].detach().float(), -1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(parts)


def sampled_kl(policy: Tensor, reference: Tensor, labels: Tensor, answer_of: Tensor, answers: int) -> Tensor:
    """D_KL(pi_theta || pi_ref) of whole answers, estimated on answers drawn from the policy itself.

    policy, reference: [tokens, vocab] logits at the prefixes of these answers. labels, answer_of: [tokens], an answer's
    tokens in order. Returns [answers] in nats: the sum of `reverse_kl` over an answer's prefixes. Its mean over draws
    is the divergence (Amini et al. 2025, arXiv 2504.10637), and its gradient's mean that of the
    divergence: a token also chooses the prefixes after it, so it is credited, as in REINFORCE, with what comes then.
    """
    token = reverse_kl(policy, reference)
    log_prob = -cross_entropy(policy.float(), labels, reduction="none")
    value = token.detach().double()
    whole = torch.zeros(answers, dtype=value.dtype, device=value.device).index_add(0, answer_of, value)
    so_far = value.cumsum(0) - (whole.cumsum(0) - whole)[answer_of]  # within each answer, this token counted
    credit = log_prob * (whole[answer_of] - so_far).float()
    return torch.zeros(answers, device=token.device).index_add(0, answer_of, token + credit - credit.detach())


def entropy(logits: Tensor, chunk: int = 4096) -> Tensor:
    """Entropy of each next-token distribution in nats. logits: [tokens, vocab]. Returns [tokens] float32."""
    parts = []
    for start in range(0, logits.shape[0], chunk):
        log_p = log_softmax(logits[start : start + chunk].float(), -1)
        parts.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(parts)
