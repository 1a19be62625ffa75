"""How a network learns: `pixels` (from what), `objective` (to lower what, eq. (16)), `rule` (how modalities are
balanced), `loop` (batches, steps, history) and `shadow` (linear heads that watch every branch)."""
