"""What is predicted: in which region of the space, and spread how far over its dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from nextvec.data.gather import gather_rows
from nextvec.data.windows import FloatArray, IntArray
from nextvec.diagnostics.examples import nearest_rows
from nextvec.diagnostics.sections import sample
from nextvec.errors import NothingToDraw
from nextvec.evaluation.metrics import moments
from nextvec.evaluation.predictor_protocol import unit
from nextvec.reporting.drawing import canvas, diagonal, look, name_axes, panels, wrapped
from nextvec.reporting.figures import figure
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.predicted import PredictedWindows, searchable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nextvec.corpus.store import Store

MAPPED = 500
"""Windows on the map: each is two points, and t-SNE's time grows with their square."""
FEWEST_MAPPED = 5


@figure("rows", "answers", "store")
def source_confusion(inputs: ReportInputs) -> Figure:
    """Source of the prediction against source of the truth.

    Of the windows whose true next chunk is from one source (a row), the share whose prediction is nearest to
    a training chunk of another. The true vectors, placed alike, show what could be reached.
    """
    answered = PredictedWindows.of(inputs)
    store, names = answered.store, answered.store.sources
    of_document = np.array([names.index(document.source) for document in store.documents])
    true = of_document[store.document_of(answered.answers.target)]  # rows of deleted documents lie between
    if len(np.unique(true)) < 2:
        raise NothingToDraw(f"every evaluated document is of one source, {names[true[0]]}")
    which = searchable(answered, share=1 / 3)

    def placed(units: FloatArray) -> IntArray:
        nearest = nearest_rows(units[which], store.vectors, answered.trained)
        return np.asarray(of_document[store.document_of(nearest)], dtype=np.int64)

    seen = {row: placed(answered.units(row)) for row in _compared(answered)}
    return _confusion(names, true[which], {**seen, "the true vectors": placed(answered.targets)})


@figure("rows", "answers", "store")
def topic_confusion(inputs: ReportInputs) -> Figure:
    """Topic of the prediction against topic of the truth.

    Topics are clusters of the training chunks, named by the terms that stand out in them. Of the windows
    whose true next chunk is of one topic (a row), the share whose prediction falls in each.
    """
    answered = PredictedWindows.of(inputs)
    topics = find_topics(answered.store, answered.trained)
    if len(topics.names) < 2:
        raise NothingToDraw("too few chunks were trained on to separate topics")
    seen = {row: topics.of(answered.units(row)) for row in _compared(answered)}
    return _confusion(topics.names, topics.of(answered.targets), seen)


def _compared(answered: PredictedWindows) -> list[str]:
    return [row for row in (answered.best, answered.baseline) if row is not None]


def _confusion(names: Sequence[str], true: IntArray, predicted: dict[str, IntArray]) -> Figure:
    """Shares of every true category [N], side by side for each of those who `predicted` [N]."""
    there, windows = np.unique(true, return_counts=True)
    rows = [f"{names[i]} ({n:,})" for i, n in zip(there, windows, strict=True)]
    if len(rows) == len(names):
        rows, columns = [f"{row}  {i}" for i, row in enumerate(rows, 1)], [str(i + 1) for i in there]
        turn: dict[str, Any] = {}
    else:
        columns, turn = list(names), {"rotation": 40, "ha": "right", "size": 7}
    drawn, grid = canvas(height=0.34 * len(rows) + 2.2, columns=len(predicted), sharey=True)
    for (row, guess), axes in zip(predicted.items(), np.ravel(grid), strict=True):
        counts = np.zeros((len(names), len(names)))
        np.add.at(counts, (true, guess), 1)
        shares = 100 * counts[there] / windows[:, None]
        image = axes.imshow(shares, vmin=0, vmax=100, aspect="auto")
        for (i, j), share in np.ndenumerate(shares):
            if share >= 0.5:  # what rounds to 0 is left empty
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", size=6.5,
                          color="black" if share > 50 else "white")  # fmt: skip
        axes.set_xticks(range(len(names)), columns, **turn)
        axes.set_yticks(range(len(rows)), rows, size=7)
        axes.grid(visible=False)
        axes.set_title(f"{wrapped(row)}\n{100 * (true == guess).mean():.0f} % right", size=8)
    np.ravel(grid)[0].set_ylabel("of the true next chunk (windows)")
    drawn.supxlabel("of the prediction", size=9)
    drawn.colorbar(image, ax=np.ravel(grid).tolist(), label="% of the windows in a row")
    return drawn


@figure("rows", "answers", "store")
def prediction_map(inputs: ReportInputs) -> Figure:
    """Map of predictions and true vectors (t-SNE).

    Predictions of the best model and the true vectors on one map that keeps near what is near (t-SNE). Left
    the truth, right the predictions; the colour is the error of the window.
    """
    return _map(PredictedWindows.of(inputs), _tsne, "t-SNE")


@figure("rows", "answers", "store", on_request=True)
def prediction_map_umap(inputs: ReportInputs) -> Figure:
    """Map of predictions and true vectors (UMAP).

    The map of predictions and true vectors, made by UMAP, which keeps more of what is far apart.
    """
    if find_spec("umap") is None:
        raise NothingToDraw("UMAP is not installed: pip install nextvec[umap]")
    return _map(PredictedWindows.of(inputs), _umap, "UMAP")


def _map(answered: PredictedWindows, project: Any, name: str) -> Figure:
    which = sample(len(answered), MAPPED, seed=0)
    if len(which) < FEWEST_MAPPED:
        raise NothingToDraw(f"{len(which)} windows make no map")
    both = np.concatenate([answered.targets[which], answered.units(answered.best)[which]])
    truth, guess = np.split(project(both), 2)
    error = 1 - answered.answers.values[answered.best]["cosine"][which]
    drawn, grid = canvas(height=3.6, columns=2, sharex=True, sharey=True)
    titles = ("true next vectors", f"predictions of\n{wrapped(answered.best)}")
    for axes, points, others, title in zip(grid[0], (truth, guess), (guess, truth), titles, strict=True):
        axes.scatter(*others.T, s=5, color="#D0D0D0", linewidths=0)
        seen = axes.scatter(*points.T, s=9, c=error, linewidths=0)
        axes.set_title(title, size=8)
        axes.set_xlabel(f"{name} 1 (no unit)")
        axes.set_xticks([])
        axes.set_yticks([])
    grid[0, 0].set_ylabel(f"{name} 2 (no unit)")
    drawn.colorbar(seen, ax=grid[0].tolist(), label="1 - cosine", shrink=0.8)
    return drawn


def _tsne(points: FloatArray) -> FloatArray:
    """[n, D] -> [n, 2]; the same for the same points."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    with threadpool_limits(1):
        made = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=0).fit_transform(points)
    return np.asarray(made, dtype=np.float32)


def _umap(points: FloatArray) -> FloatArray:
    """[n, D] -> [n, 2]; the same for the same points."""
    from umap import UMAP

    neighbours = min(15, len(points) - 1)
    made = UMAP(n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1).fit_transform(points)
    return np.asarray(made, dtype=np.float32)


@figure("rows", "answers", "store")
def dimension_std(inputs: ReportInputs) -> Figure:
    """Standard deviation of every dimension.

    One point a dimension: its standard deviation over the true vectors and over the predictions, both of unit
    length. On the dashed line they agree; below it the predictions are narrower, as a mean over what may come
    next is by nature.
    """
    return _dimensions(PredictedWindows.of(inputs), 1, "standard deviation")


@figure("rows", "answers", "store")
def dimension_mean(inputs: ReportInputs) -> Figure:
    """Mean of every dimension.

    One point a dimension: its mean over the true vectors and over the predictions, both of unit length. On
    the dashed line they agree.
    """
    return _dimensions(PredictedWindows.of(inputs), 0, "mean")


def _dimensions(answered: PredictedWindows, which: int, what: str) -> Figure:
    true = moments(answered.targets)[which]
    drawn, grid = panels(answered.models)
    for name, axes in grid:
        own = moments(answered.units(name))[which]
        axes.plot(true, own, ".", color=look(answered.inputs, name).colour, alpha=0.5, ms=4, mew=0,
                  rasterized=True)  # fmt: skip
        diagonal(axes)
    return name_axes(drawn, f"{what} over the encoder's true vectors", "over the predictions")


# What a store's chunks are about: clusters of their vectors, named by what stands out in their texts.

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
