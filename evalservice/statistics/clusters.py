"""Items that depend on each other: their clusters as codes, and sums over them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


def dependent(labels: Codes, alone: int) -> Codes | None:
    """Cluster numbers, shape (n,), an item labelled `alone` being its own; None when no cluster has two items."""
    named = labels != alone
    found, inverse = np.unique(labels[named], return_inverse=True)
    if len(found) == named.sum():
        return None
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[named] = inverse
    numbers[~named] = len(found) + np.arange((~named).sum())
    return numbers


def cluster_sums(rows: npt.NDArray[np.float64], clusters: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The sum of each cluster's rows: (n, k) gives (clusters, k), (n,) gives (clusters,). Raises ValueError for unequal
    lengths."""
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(codes) != len(rows):
        raise ValueError(f"{len(rows)} values but {len(codes)} clusters")
    columns = rows if rows.ndim == 2 else rows[:, None]
    groups = int(codes.max()) + 1 if len(codes) else 0
    sums = np.zeros((groups, columns.shape[1]))
    for k, column in enumerate(columns.T):
        sums[:, k] = np.bincount(codes, weights=column, minlength=groups)
    return sums if rows.ndim == 2 else sums[:, 0]
