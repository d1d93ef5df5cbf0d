"""Faults of splitting: figures taken on what was trained on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from nextvec.data.trained import TrainedOn
from nextvec.data.windows import FloatArray, Windows
from nextvec.evaluation.leaks import Leaks
from nextvec.selfcheck.faults.fault import Seen, fault
from nextvec.selfcheck.faults.scene import D, Scene, evaluate
from nextvec.selfcheck.worlds import make_store

ARTICLES, PIECE = 30, 6


def all_pass(store: Any, windows: Windows, trained: TrainedOn, **_: object) -> tuple[Windows, Leaks]:
    """The leak guard, asleep."""
    return windows, Leaks(len(windows), 0, 0, 0)


ASLEEP = {"nextvec.evaluation.harness:without_leaks": all_pass}


@fault(
    "windows split at random",
    "windows split at random",
    did="validation 0.59, new articles 0.04",
    guard="document splits only; windows whose target text stands in training are counted and refused",
    alarm=("LeakError", "by target text"),
    without=ASLEEP,
)
def windows_split_at_random(scene: Scene, faulty: bool) -> Seen:
    """Every window is stored as a document of its own: then the hash of its id splits windows at random."""
    articles = scene.shared.noise[:ARTICLES]
    count, length, _ = articles.shape
    starts = range(length - PIECE + 1)

    def text(article: int, place: int) -> str:
        return f"chunk {place} of article {article} says {article * 1000 + place}"

    if not faulty:
        return evaluate(store=make_store(scene.folder / "store", articles, texts=text).path)
    pieces: FloatArray = np.stack([articles[a, s : s + PIECE] for a in range(count) for s in starts])
    per = len(starts)
    store = make_store(
        scene.folder / "store", pieces.reshape(-1, PIECE, D), texts=lambda d, p: text(d // per, d % per + p)
    )
    return evaluate(store=store.path)


@fault(
    "one document in two splits",
    "windows split at random",
    did="windows of one article on both sides",
    guard="a split file names every document once",
    alarm=("SplitError", "stands in train and in test"),
    without={
        "nextvec.data.splits:_read_split_file": lambda path: {
            i: name for name, ids in json.loads(path.read_text()).items() for i in ids
        }
    },
)
def document_in_two_splits(scene: Scene, faulty: bool) -> Seen:
    """A split file names a test document among the train documents too."""
    split = scene.shared.split
    both = split.test[:1] if faulty else ()
    path = scene.write_split((*split.train, *both), split.validation, split.test)
    return evaluate(store=scene.shared.store.path, flags=["--split-file", path])


@fault(
    "evaluation on training articles",
    "evaluation on training articles",
    did="91 % overlap, recall@5 = 100 %",
    guard="windows whose document or text is in training are dropped, counted, and refused above 1 %",
    alarm=("LeakError", "by document id"),
    without=ASLEEP,
)
def training_articles(scene: Scene, faulty: bool) -> Seen:
    """Ten of eleven test documents of a split file were trained on."""
    split = scene.shared.split
    moved = split.train[:10] if faulty else ()
    unseen = split.test[: 1 if faulty else None]
    path = scene.write_split(
        [i for i in split.train if i not in moved],
        [*split.validation, *split.test[len(unseen) :]],
        [*moved, *unseen],
    )
    return evaluate(scene.shared.run, store=scene.shared.store.path, flags=["--split-file", path])
