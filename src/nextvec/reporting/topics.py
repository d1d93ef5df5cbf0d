"""What a store's chunks are about: clusters of their vectors, named by what stands out in their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.engine import sample
from nextvec.evaluation.predictor import unit

if TYPE_CHECKING:
    from nextvec.corpus.store import Store

TOPICS = 8
CHUNKS_A_TOPIC = 10
MOST_CHUNKS = 4000
TERMS = 3
COMMON = 0.6
WORD = r"(?u)\b[^\W\d_]{3,}\b"


@dataclass(frozen=True)
class Topics:
    """K clusters, the largest first.

    Attributes:
        names: their terms, the most telling first; "no words" where the texts have none.
        centres: [K, D] of unit length.
    """

    names: tuple[str, ...]
    centres: FloatArray

    def of(self, units: FloatArray) -> IntArray:
        """[N] number of the topic nearest to each of `units` [N, D] by cosine."""
        return np.asarray((units @ self.centres.T).argmax(axis=1), dtype=np.int64)


def find_topics(store: Store, rows: IntArray, *, topics: int = TOPICS, seed: int = 0) -> Topics:
    """Cluster chunks (at most 4,000 of `rows`, drawn by `seed`) by direction, with k-means.

    Args:
        topics: how many at most; a tenth of the chunks if they are few.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    rows = rows[sample(len(rows), MOST_CHUNKS, seed)]
    units = unit(gather_rows(store.vectors, rows))
    k = max(1, min(topics, len(rows) // CHUNKS_A_TOPIC))
    with threadpool_limits(1):  # sums in one order, so that the same store gives the same topics
        found = KMeans(k, n_init=2, random_state=seed).fit(units)
    order = np.argsort(-np.bincount(found.labels_, minlength=k), kind="stable")
    topic = np.argsort(order, kind="stable")[found.labels_]
    return Topics(_names(store.texts(rows), topic, k), unit(found.cluster_centers_[order]))


def _names(texts: Sequence[str], topic: IntArray, topics: int) -> tuple[str, ...]:
    """The terms of each topic whose mean tf-idf is farthest above that of all chunks."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    weigh = TfidfVectorizer(stop_words="english", token_pattern=WORD, sublinear_tf=True, max_df=COMMON,
                            max_features=5000)  # fmt: skip
    try:
        weights = weigh.fit_transform(texts)
    except ValueError:  # no word that is not in every text
        return ("no words",) * topics
    terms = weigh.get_feature_names_out()
    everywhere = np.asarray(weights.mean(axis=0)).ravel()
    names = []
    for number in range(topics):
        above = np.asarray(weights[topic == number].mean(axis=0)).ravel() - everywhere
        best = np.argsort(-above, kind="stable")[:TERMS]
        names.append(", ".join(terms[i] for i in best if above[i] > 0) or "no words")
    return tuple(names)
