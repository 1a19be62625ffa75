"""The losses, one value per sample: `prsa.training.objective` takes their mean over the batch and weighs them."""

import torch


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)_y: logits (B, ..., K), y (B,) in 0..K-1 -> (B, ...), the same y for every modality."""
    log_p = logits.log_softmax(-1)
    y = y.view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)  # (B, ..., 1)
    return -log_p.gather(-1, y).squeeze(-1)  # (B, ...)


def alignment_loss(S: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L_sa, eq. (8), ours: S (B, M, K), y (B,) -> (B,)."""
    return cross_entropy(S, y).mean(1)


def prototype_loss(logits: torch.Tensor, y: torch.Tensor, push: torch.Tensor) -> torch.Tensor:
    """L_p, eq. (14), ours: logits q (B, M, K), y (B,), push b + beta_m (M,) -> (B,)."""
    return (push * cross_entropy(logits, y)).sum(1)


def jensen_shannon(posteriors: torch.Tensor) -> torch.Tensor:
    """JS, eq. (22): posteriors (B, M, K) -> (B,), nats; 0 when the modalities agree, at most log M."""
    eps = torch.finfo(posteriors.dtype).tiny
    mean = posteriors.mean(1, keepdim=True)  # (B, 1, K)
    return (posteriors * (posteriors.clamp(min=eps).log() - mean.clamp(min=eps).log())).sum(2).mean(1)
