"""Encoders, fusion, prototypes, losses and the network made of them. Here stand the study's equations, each once.

Only the abstract of the PRSANet paper is public. Every equation is our own reconstruction (ours) or follows PMR
(Fan et al., CVPR 2023, arXiv 2211.07089), the closest published relative. None is the paper's own formula.

Batch B, modalities m = 1..M, categories k = 1..K, bands C_m, window of p x p pixels, feature width D. Given are
standardised bands x^m (B, C_m, p, p) and labels y (B,). CE(l, y) = -log softmax(l)_y; cos is the cosine.

Encoders, `encoders.py`
  (1)  z^m = E_m(x^m)                                           z^m (B, D): features of a modality. Ours
Semantic-alignment graph fusion (SAGF), `fusion.py`: a graph per sample, of M modality nodes and K category nodes
  (2)  S_mk = cos(P_m z^m, a_k) / tau_s                         S (B, M, K): edges to the categories. Ours
  (3)  A_m = softmax_k S_mk                                     A (B, M, K): what a modality thinks it sees. Ours
  (4)  G_mn = <A_m, A_n> / sum_l <A_m, A_l>                     G (B, M, M): agreement of modalities. Ours
  (5)  h^m = z^m + W_c sum_k A_mk a_k + W_g sum_n G_mn P_n z^n  h^m (B, D): after the exchange. Ours
  (6)  f = [h^1 .. h^M]                                         f (B, M D): fused feature. Ours
  (7)  o = W f + w + g mean_m S_m                               o (B, K): fused logits. Ours
       Learned: P_m (D, D); anchors a_k (D,), shared by modalities and samples; W_c, W_g (D, D); g, a number; the head
       W (K, M D), w (K,). Temperature tau_s. W_c, W_g, g start at 0: training starts from concatenation, h^m = z^m.
Semantic alignment, `losses.py`
  (8)  L_sa = mean_m CE(S_m, y)                                 (B,): all modalities, the same anchors. Ours
Prototypical rebalancing (PRM), `prototypes.py`: from training pixels only; (9) to (13) carry no gradient
  (9)  c^m_k <- mu c^m_k + (1 - mu) mean of z^m / |z^m|         c^m (K, D): prototypes. After PMR; running mean ours
       The mean is over the batch's samples of category k; the first sight copies; momentum mu.
 (10)  q^m_k = cos(z^m, c^m_k) / tau_p, p^m = softmax_k q^m_k   q^m, p^m (B, K): classifier without weights. After PMR
       PMR has q^m_k = -|z^m - c^m_k| (metric "euclidean", no norm in (9)); the cosine and temperature tau_p are ours.
 (11)  s_m = mean of p^m_y over the batch                       s (M,): optimisation degree. PMR eq. 7
       Smoothed over batches (ours).
 (12)  rho_m = s_m / mean_{n != m} s_n                          rho (M,): imbalance factor. PMR eq. 8 for M = 2
 (13)  beta_m = clip(max_n s_n / s_m - 1, 0, 1)                 beta (M,): push of the slow. PMR eq. 11 for M = 2
Intermodal independent prototype loss (IIPL), `losses.py`, and auxiliary heads V_m (K, D), v_m (K,)
 (14)  L_p = sum_m (b + beta_m) CE(q^m, y)                      (B,): reaches encoder m alone. Ours; b = 0: PMR's form
 (15)  L_aux = sum_m CE(V_m z^m + v_m, y)                       (B,): goes beyond the abstract. Ours
Objective, `prsa.training.objective`
 (16)  L = mean over the batch of CE(o, y) + lambda_sa L_sa + lambda_aux L_aux + lambda_p L_p, plus L_rule. Ours
       L_rule: the terms of another rule than PRM (`prsa.comparators.rebalancing`), else 0.
Prediction, `prsanet.py`: the category with the largest value
 (17)  log softmax_k(o) + v mean_m log softmax_k(S_m)           (B, K): the modalities vote, weight v. Ours

In the place of (2) to (7), to compare with, and a measure (common in the field):
 (18)  f = sum_m z^m                                            "sum", f (B, D)
 (19)  f = sum_m sigmoid(U_m [z^1 .. z^M] + u_m) * z^m          "gated", U_m (D, M D), u_m (D,), f (B, D)
 (20)  f = [z^m + sum_n softmax_n(<Q z^m, R z^n> / sqrt(D)) T z^n]_m     "cross-attention", Q, R, T (D, D), f (B, M D)
 (21)  log p = sum_m log softmax_k(V_m z^m + v_m)               "late", (B, K): networks trained apart, by (15) alone
 (22)  JS = mean_m KL(A_m, mean_n A_n)                          (B,): disagreement of modalities (p^m where no A is)
"""
