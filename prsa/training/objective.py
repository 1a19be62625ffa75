"""The objective, eq. (16): its terms, their weights, and what each asks of the features."""

from typing import NamedTuple

import torch

from ..network.losses import alignment_loss, cross_entropy, prototype_loss
from ..network.prsanet import PRSANet
from .rule import Rule

TERMS = (
    "fused",
    "alignment",
    "prototype",
    "auxiliary",
    "rebalancing",
)  # as a run file has them; one that is off is NaN


class Term(NamedTuple):
    """A summand of L: ``weight`` times ``loss``, a mean over the batch."""

    weight: float
    loss: torch.Tensor


def terms_of(model: PRSANet, rule: Rule, out: dict, y: torch.Tensor, s: torch.Tensor) -> dict[str, Term]:
    """The terms of eq. (16) by name, with all weights of the objective: nothing else in the package applies one.

    ``out``: the dict of `PRSANet.classify`; y (B,); s (M,), eq. (11). A term that is off is left out, but for the
    prototype loss: its gradient is a measure of the study, and its weight may be 0.
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


def objective(terms: dict[str, Term]) -> torch.Tensor:
    """L of eq. (16)."""
    return sum(weight * loss for weight, loss in terms.values())


def gradients(
    terms: dict[str, Term], z: torch.Tensor, shared: list[torch.Tensor]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradient of L on z (B, M, D), as ``total``, and of every summand; and that of the prototype loss without its
    weight.

    The gradients of the parameters ``shared`` by the modalities are added to their ``.grad``; the prototype loss has
    none.
    """
    on_z = {}
    lambda_p, loss = terms["prototype"]
    for name, (weight, loss_of_term) in terms.items():
        if name == "prototype":
            continue
        # The weight enters as the first gradient of the chain rule: the same numbers as those of (weight * loss).backward().
        start = torch.full_like(loss_of_term, weight)
        on_z[name], *rest = torch.autograd.grad(loss_of_term, [z, *shared], start, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(shared, rest):
            if gradient is not None:
                if (
                    gradient.stride() != parameter.stride()
                ):  # the fused optimiser reads both in the order of their memory
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    # Here the weight comes after the chain rule, because the gradient itself is wanted, also where the weight is 0.
    (own,) = torch.autograd.grad(loss, z, retain_graph=True)
    if lambda_p:
        on_z["prototype"] = lambda_p * own
    on_z["total"] = sum(on_z.values(), torch.zeros_like(z))
    return on_z, own
