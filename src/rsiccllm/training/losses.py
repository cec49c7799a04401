"""The losses, each a few lines of arithmetic over next-token logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid


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
