"""How modalities are balanced while one network learns from all of them: one class per method, with `Rule`'s hooks.

The training loop calls the hooks and knows no method by name; a `Config` names the class (``rule="module:class"``) and
its one setting (``strength``). Every other setting of a run is the same for all of them.
"""

import torch

from ..data.patches import upload
from ..errors import PrsaError
from ..network.fusion import Concat
from ..network.losses import jensen_shannon
from ..network.prototypes import imbalance_factor, optimisation_degree
from ..training.rule import Rule


class OgmGe(Rule):
    """OGM-GE (Peng et al., CVPR 2022): slows down the encoder of a modality that is ahead, and adds noise to every one.

    s_m = batch mean of softmax(W_m z^m + b / M)_y with W_m the columns of the head that read z^m; rho_m = s_m / mean of
    the others (two modalities: as published); k_m = 1 - tanh(strength rho_m) where rho_m > 1, else 1 (eq. 10 of the
    paper). The gradient g of a convolution kernel becomes k_m g + noise, Gaussian with the standard deviation of the
    elements of g before it is scaled. Kernels only, as in the authors' code: normalisation layers and biases keep their
    gradient. In all epochs, while that code's default stops after half of them.
    """

    def to_encoders(self, model, encoded, on_z, y, rng):
        if not isinstance(model.fusion, Concat):
            got = f"got {model.config.fusion!r}. Fix: fusion='concat', or another method."
            raise PrsaError(f"OGM-GE reads the columns of the head by modality: expected fusion='concat', {got}")
        encoded.backward(on_z["total"])
        batch, count, size = encoded.shape
        with torch.no_grad():
            columns = model.head.weight.view(-1, count, size)  # (K, M, D)
            logits = torch.einsum("bmd,kmd->bmk", encoded, columns) + model.head.bias / count
            rho = imbalance_factor(optimisation_degree(logits, y))
            k = torch.where(rho > 1, 1 - torch.tanh(self.config.strength * rho), 1)  # (M,)
        for i, m in enumerate(model.modalities):
            for g in (p.grad for p in model.encoders[m].parameters() if p.ndim == 4):
                noise = upload(torch.randn(g.shape, generator=rng, dtype=g.dtype), g.device) * g.std(correction=0)
                g.mul_(k[i]).add_(noise)  # in place: the gradient keeps the memory layout of its parameter


class Pmr(Rule):
    """PMR as in its paper (Fan et al., CVPR 2023): pushes slow modalities, holds back fast ones in the first epochs.

    The push is that of `Rule` with b = 0 and Euclidean distances from the config; lambda_p is the paper's alpha. The
    restraint is its 13th equation: - mu sum_m gamma_m H(p^m), H the entropy of the prototype classifier, batch mean;
    gamma_m = clip(s_m / min_n s_n - 1, 0, 1). ``strength`` is mu (the paper: 0.01 or 0.001). The paper leaves open how
    many epochs "few" are: here the first fifth. Ours: any number of modalities, s_m smoothed over batches, prototypes
    updated at every batch instead of between epochs.
    """

    EARLY = 0.2

    def terms(self, out, y, s):
        if not self.config.strength or self.progress > self.EARLY:
            return {}
        log_p = out["prototype"].log_softmax(2)
        entropy = -(log_p.exp() * log_p).sum(2).mean(0)  # (M,)
        return {"rebalancing": -self.config.strength * ((s / s.min() - 1).clamp(0, 1) * entropy).sum()}


class PmrCode(Rule):
    """PMR as in its authors' code: push 1 for the slower modality, 0 for the faster and in a tie; no restraint.

    The momentum of 0.2 on the old prototype and Euclidean distances come from the config; lambda_p is alpha.
    ``strength``: share of the epochs, from the first, in which the prototype loss is on (that code: 100 of 150). Ours:
    slow is rho_m < 1 for any number of modalities; smoothing and prototypes as in `Pmr`.
    """

    def weights(self, s):
        return ((imbalance_factor(s) < 1) & (self.progress <= self.config.strength)).to(s.dtype)


class MMPareto(Rule):
    """MMPareto (Wei & Hu, ICML 2024): per encoder, a direction that serves the fused loss and the branch's own loss.

    g_f and g_u are the gradients of the two on all parameters of one encoder (g_f with every further term that is on).
    Where g_f . g_u > 0: a_f = a_u = 1/2, else a_f g_f + a_u g_u is the shortest vector between the two. The encoder
    gets ``strength`` (the paper's gamma, 1.5) times 2 (a_f g_f + a_u g_u), stretched to the length of g_f + g_u, which
    is never shorter. That length is the encoder's, so that the direction stays; the authors' code stretches tensor by
    tensor. Any number of modalities, because every encoder is treated alone.
    """

    def to_encoders(self, model, encoded, on_z, y, rng):
        if not {"fused", "auxiliary"} <= on_z.keys():
            got = f"got lambda_aux={self.config.lambda_aux}, fusion={self.config.fusion!r}. Fix: lambda_aux=1.0."
            raise PrsaError(f"MMPareto needs two losses: expected lambda_aux > 0 and a fusion other than 'late', {got}")
        encoded.backward(on_z["total"] - on_z["auxiliary"], retain_graph=True)
        ours = {p: p.grad for p in model.encoders.parameters()}
        model.encoders.zero_grad(set_to_none=True)
        encoded.backward(on_z["auxiliary"])
        for m in model.modalities:
            parameters = list(model.encoders[m].parameters())
            f, u = torch.cat([ours[p].flatten() for p in parameters]), torch.cat([p.grad.flatten() for p in parameters])
            tiny = torch.finfo(f.dtype).tiny
            fu = f @ u
            shortest = (u @ u - fu) / (f @ f + u @ u - 2 * fu).clamp(min=tiny)  # inside 0..1 where fu <= 0
            a = torch.where(fu > 0, 0.5, shortest)  # a_f
            scale = self.config.strength * (f + u).norm() / (a * f + (1 - a) * u).norm().clamp(min=tiny)
            for p in parameters:
                p.grad.mul_(scale * (1 - a)).add_(scale * a * ours[p])


class BranchAgreement(Rule):
    """Ours, in the spirit of LFM: ``strength`` times eq. (22) of the auxiliary heads' posteriors, batch mean."""

    def terms(self, out, y, s):
        if "branch" not in out:
            got = f"got {self.config.lambda_aux}. Fix: lambda_aux=1.0."
            raise PrsaError(f"BranchAgreement compares auxiliary heads: expected lambda_aux > 0, {got}")
        return {"rebalancing": self.config.strength * jensen_shannon(out["branch"].softmax(2)).mean()}


class ModalityDropout(Rule):
    """Modality dropout, in the spirit of ModDrop (Neverova et al., TPAMI 2016): per sample, the fusion loses each
    modality with probability ``strength``; never all of them.

    Where all would be lost, one drawn uniformly stays: a modality is kept with probability 1 - p + p^M / M. What stays
    is not rescaled, so the samples that lose nothing are what the fusion sees after training. Prototypes and auxiliary
    heads always see everything.
    """

    def keep(self, batch, modalities, rng):
        keep = torch.rand(batch, modalities, generator=rng) >= self.config.strength
        one = torch.nn.functional.one_hot(torch.randint(modalities, (batch,), generator=rng), modalities).bool()
        return torch.where(keep.any(1, keepdim=True), keep, one).float()
