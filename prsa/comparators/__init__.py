"""What PRSANet is compared with: `rebalancing` (rules that balance the modalities of the same network), `networks`
(published networks in the place of encoders and fusion) and `classical` (classifiers of single pixels).

A new method is one class, with one entry in `prsa.config.METHODS`: everything else, from the pixels to the tables, is
the same for all. A rule overrides what it needs of `prsa.training.rule.Rule`. A network derives from
`prsa.comparators.networks.Network`; its entry has ``"network": "module:class"``. A classifier is a function of a seed
that returns a scikit-learn estimator and a grid; its entry has ``"classifier": "module:function"``.

An example: a rule that takes out of the prototype loss's gradient what opposes the fused loss, per sample. In a file
``surgery.py`` that can be imported::

    from prsa.training.rule import Rule

    class Surgery(Rule):
        def to_encoders(self, model, encoded, on_z, y, rng):
            ours, fused = on_z["prototype"], on_z["fused"]  # (B, M, D)
            against = (ours * fused).sum(2, keepdim=True).clamp(max=0)  # (B, M, 1)
            taken = against / (fused**2).sum(2, keepdim=True).clamp(min=1e-12) * fused  # (B, M, D)
            encoded.backward(on_z["total"] - taken)

and in `prsa.config.METHODS`::

    "surgery": {"rule": "surgery:Surgery", "lambda_p": 1.0, "base": 1.0},

then ``prsa.fit(scene, "surgery")``, or ``make reproduce METHODS="concat prsanet surgery"``.
"""
