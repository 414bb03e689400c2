"""What may be exchanged between groups in a permutation test: whole clusters, or images within one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Units:
    """Images as the units that a test exchanges.

    Attributes:
        of: (N,) the unit of each image, numbered from 0: its cluster, or itself where its cluster is of several groups.
        pool: (U,) units of one pool may change places: whole clusters of the same class (that of most of their images,
            the first on a tie), or the images of one class within a cluster that is of several groups.
        first: (U,) an image of each unit.
        mixed: How many clusters are of several groups.
    """

    of: np.ndarray
    pool: np.ndarray
    first: np.ndarray
    mixed: int


def units_of(group: np.ndarray, cluster: np.ndarray, label: np.ndarray) -> Units:
    """Return what may be exchanged.

    Args:
        group: int (N,), at least one.
        cluster: (N,).
        label: int (N,) class, from 0.
    """
    cluster = np.unique(cluster, return_inverse=True)[1]
    low, high = np.full(cluster.max() + 1, group.max()), np.full(cluster.max() + 1, group.min())
    np.minimum.at(low, cluster, group)
    np.maximum.at(high, cluster, group)
    several = low < high  # (clusters,)
    apart = several[cluster]  # (N,)
    own = np.where(apart, cluster.max() + 1 + np.arange(len(cluster)), cluster)
    _, first, unit = np.unique(own, return_index=True, return_inverse=True)
    classes = int(label.max()) + 1
    counts = np.zeros((len(first), classes), np.int64)
    np.add.at(counts, (unit, label), 1)
    pool = np.where(apart[first], 1 + cluster[first], 0) * classes + counts.argmax(axis=1)
    return Units(unit, pool, first, int(several.sum()))
