"""Taking a model's own mistakes out of its shares.

A model that takes every third pole for a building does so on the images of another dataset, too: of what it calls building there, a part is
truly pole, and would look as if the labels overlapped. How it errs is known from its own images, where its labels are the truth.
"""

import numpy as np

ROUNDS = 10
"""More change little: on drawn streets, 5 to 40 give the same relations but for a few."""

START = 1e-3
"""Added to each share at first: what is 0 would stay 0."""


def unmix(shares: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Shares (X, Y) of X predicted labels in Y labels of another dataset, and own counts (X true, X predicted) of pixels on the model's own
    images, to the shares that the labels would have if nothing were mistaken, (X, Y) float64.

    With r(x, z) the part of the pixels predicted as x on the model's own images that is truly z, the share of x is taken for the mean of
    the shares q of the true labels: p(x, y) = sum over z of r(x, z) q(z, y). That is solved for q by the multiplicative steps of Richardson
    (1972) and Lucy (1974), which keep it in 0..1. A label that is not predicted on the own images is taken to be right; one that is never
    right there has no shares. Rows of `shares` that are 0 say nothing and stay 0.
    """
    predicted = own.sum(axis=0)
    right = np.divide(own.T, predicted[:, None], out=np.eye(len(own)), where=predicted[:, None] > 0)
    says = np.any(shares, axis=1)
    r, p = right[says], shares[says]
    q = shares + START
    for _ in range(ROUNDS):
        q = q * (r.T @ (p / np.maximum(r @ q, START**2))) / np.maximum(r.sum(axis=0), START)[:, None]
        q /= np.maximum(q.sum(axis=1, keepdims=True), START**2)
    # No q(x, y) can be larger: what is rightly called x is a part of p(x, y). It binds where mistakes differ on the other images.
    most = np.divide(shares, right.diagonal()[:, None], out=np.zeros(shares.shape), where=right.diagonal()[:, None] > 0)
    return np.minimum(q, most)
