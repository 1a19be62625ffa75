"""The three loss terms of PRSANet and their targets: functions with one value per sample (and modality); weighting happens outside."""

import torch
import torch.nn.functional as F


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-sum_k t_k log softmax(logits)_k. logits (B, ..., K); targets (B,) categories or (B, ..., K) distributions -> (B, ...)."""
    log_p = logits.log_softmax(-1)
    if not targets.is_floating_point():
        targets = F.one_hot(targets, logits.shape[-1]).to(logits.dtype)
    while targets.ndim < logits.ndim:  # the same target for every modality
        targets = targets.unsqueeze(-2)
    return -(targets * log_p).sum(-1)


def soft_targets(similarity: torch.Tensor, y: torch.Tensor, sigma: float, tau: float) -> torch.Tensor:
    """t_m = (1 - sigma) onehot(y) + sigma softmax_k(cos(c_y, c_k) / tau), METHOD 4 (ours).

    similarity (M, K, K) of the prototypes, y (B,) -> (B, M, K). sigma = 0 gives hard targets.
    """
    hard = F.one_hot(y, similarity.shape[-1]).to(similarity.dtype)[:, None]  # (B, 1, K)
    soft = (similarity / tau).softmax(-1)[:, y].transpose(0, 1)  # (B, M, K)
    return (1 - sigma) * hard + sigma * soft


def alignment_loss(S: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """L_sa: every branch is classified against the same anchors, mean over modalities. S (B, M, K) -> (B,). METHOD 2 (ours)."""
    return cross_entropy(S, targets).mean(1)


def prototype_loss(logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L_p (IIPL) = sum_m weight_m CE(logits^m, t_m), weight_m = b + beta_m. logits (B, M, K), weight (M,) -> (B,). METHOD 4 (ours)."""
    return (weight * cross_entropy(logits, targets)).sum(1)


def jensen_shannon(posteriors: torch.Tensor) -> torch.Tensor:
    """Divergence between the modalities' category posteriors (B, M, K) -> (B,), nats; 0 when they agree, at most log M."""
    eps = torch.finfo(posteriors.dtype).tiny
    mean = posteriors.mean(1, keepdim=True)
    return (posteriors * (posteriors.clamp(min=eps).log() - mean.clamp(min=eps).log())).sum(2).mean(1)
