"""The objective, eq. (16): its terms, their weights, and the gradient of each on the features."""

from typing import NamedTuple

import torch

from ..network.losses import alignment_loss, cross_entropy, prototype_loss
from ..network.prsanet import PRSANet
from .rule import Rule

TERMS = ("fused", "alignment", "prototype", "auxiliary", "rebalancing")  # in a run file; a term that is off is NaN


class Term(NamedTuple):
    """A summand of L: ``weight`` times ``loss``, a mean over the batch."""

    weight: float
    loss: torch.Tensor


def terms_of(model: PRSANet, rule: Rule, out: dict, y: torch.Tensor, s: torch.Tensor) -> dict[str, Term]:
    """The terms of L by name, with all its weights: no other place has them.

    ``out``: the dict of `PRSANet.classify`; y (B,); s (M,), eq. (11). What is off is left out, but for the prototype
    loss: its gradient is a measure of the study also where its weight is 0.
    """
    c = model.config
    push = rule.weights(s) if c.lambda_p else torch.ones_like(s)  # b + beta_m (M,)
    terms = {}
    if "fused" in out:
        terms["fused"] = Term(1, cross_entropy(out["fused"], y).mean())
    if "S" in out and c.lambda_sa:
        terms["alignment"] = Term(c.lambda_sa, alignment_loss(out["S"], y).mean())
    if "branch" in out:
        terms["auxiliary"] = Term(c.lambda_aux, cross_entropy(out["branch"], y).sum(1).mean())
    terms |= {name: Term(1, loss) for name, loss in rule.terms(out, y, s).items()}
    return terms | {"prototype": Term(c.lambda_p, prototype_loss(out["prototype"], y, push).mean())}


def summands(terms: dict[str, Term]) -> dict[str, torch.Tensor]:
    """The summands of L that are on."""
    return {name: weight * loss for name, (weight, loss) in terms.items() if weight}


def objective(terms: dict[str, Term]) -> torch.Tensor:
    """L = L_fused + lambda_sa L_sa + lambda_aux L_aux + L_rule + lambda_p L_p, eq. (16)."""
    return sum(summands(terms).values())


def gradients(
    terms: dict[str, Term], z: torch.Tensor, shared: list[torch.Tensor]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients on z (B, M, D) of the summands of L and, as ``total``, of L; and of L_p without its weight.

    Those of the parameters ``shared`` by the modalities are added to their ``.grad``. L_p does not reach any.
    """
    on_z = {}
    for name, (weight, loss) in terms.items():
        if name != "prototype":
            # The weight starts the chain rule, so the numbers are those of (weight * loss).backward() to the last bit.
            start = torch.full_like(loss, weight)
            on_z[name], *rest = torch.autograd.grad(loss, [z, *shared], start, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(shared, rest):
                if gradient is not None:
                    _add(parameter, gradient)
    lambda_p, loss = terms["prototype"]
    (plain,) = torch.autograd.grad(loss, z, retain_graph=True)
    if lambda_p:
        on_z["prototype"] = lambda_p * plain  # here it comes last: the plain gradient is wanted, too
    on_z["total"] = sum(on_z.values(), torch.zeros_like(z))
    return on_z, plain


def _add(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    """To ``.grad``, in the memory order of the parameter: the fused optimiser reads both as they lie."""
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
