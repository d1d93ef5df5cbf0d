"""What a random split of overlapping windows is worth: the brief's 90 to 10, beside a split by document.

    python benchmarks/leaky_split.py STORE --split-file splits.json --judge-sources wikitext,enwiki \\
        [--updates amn=5000,lstm=2000] [--precision bfloat16] --json leaky-split.json

Never a way to evaluate a model: neighbouring windows share four of the five chunks they read, and what one
is to predict the next ones read, so that nearly every window that is evaluated has neighbours in training.
Windows here end with their document (the brief's went on into the next article). The same predictors are
fitted and evaluated twice: on windows divided at random, and on the documents of the split file. `neighbours`
is the leak itself: position weights and, with a sixth weight, the mean of what followed the eight most
similar training contexts.

Models (preset and recipe `brief`, so many updates each) are trained on the random division only; the epoch is
chosen on the windows that are evaluated, as the brief did. The same models on documents: `nextvec train` and
`evaluate`. A JSON that is there already is added to. Prints the cosine and, with a 95 % interval over
documents, what it has over the linear average's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nextvec.corpus.store import Store
from nextvec.data.gather import gather_contexts, gather_rows
from nextvec.data.least_squares import WeightSums, aligned
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.windows import Windows, make_windows
from nextvec.disk import write_json
from nextvec.evaluation.baselines import BASELINES, Baseline, NeighbourSuccessor, PositionWeights
from nextvec.evaluation.intervals import estimate
from nextvec.models.base import NextVectorModel
from nextvec.models.registry import build
from nextvec.training.config import Plateau, learning_rate, make_config
from nextvec.vectors import unit

CONTEXT, HELD_OUT, BLOCK = 5, 0.1, 1024
NEAREST, FITTED_ON = 8, 4000
SHOWN = ("mean vector", "copy-last", "linear average", "last and mean", "position weights", "ridge")
SHOWN += ("exponential averages", "nearest neighbour's successor")
FloatArray = np.ndarray
Predict = Callable[[FloatArray, np.ndarray], FloatArray]


class Neighbours(PositionWeights):
    """The five vectors read and the mean of what followed the most similar training contexts, weighted."""

    name = "neighbours"

    def fit(self, vectors: Any, train: Windows, validation: Windows | None) -> None:
        self.found = NeighbourSuccessor(self.context)
        self.found.fit(vectors, train, None)
        some = np.sort(np.random.default_rng(0).permutation(len(train))[:FITTED_ON])
        self.weights = WeightSums.summed(self._pieces_of(vectors, train.select(some))).solve()
        self.metadata = {"parameters": len(self.weights), "weights": self.weights.round(3).tolist()}

    def _pieces_of(self, vectors: Any, windows: Windows) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Each window without itself: the most similar context of all is its own."""
        for block in windows.blocks(BLOCK):
            contexts, lengths = gather_contexts(vectors, block, self.context)
            others = self.found.sample(contexts, lengths, NEAREST + 1, 0)[1:]
            yield self.joined(contexts, lengths, others), gather_rows(vectors, block.target)

    def joined(self, contexts: FloatArray, lengths: np.ndarray, others: FloatArray) -> FloatArray:
        read = aligned(contexts, lengths, self.context)
        return np.concatenate([read, others.mean(axis=0)[:, None]], axis=1)

    def features(self, contexts: FloatArray, lengths: np.ndarray) -> FloatArray:
        return self.joined(contexts, lengths, self.found.sample(contexts, lengths, NEAREST, 0))


@dataclass
class Division:
    """Windows to learn from and windows to judge on."""

    name: str
    train: Windows
    evaluated: Windows

    def average(self, store: Store) -> FloatArray:
        """Cosines of the mean of the five vectors read: the brief's baseline."""
        goal = gather_rows(store.vectors, self.evaluated.target)
        mean = gather_contexts(store.vectors, self.evaluated, CONTEXT)[0].mean(axis=1)
        return (unit(mean) * unit(goal)).sum(axis=1)


def divisions(store: Store, split_file: str, sources: list[str]) -> list[Division]:
    """At random over all windows, and by document; evaluated on these sources."""
    split = split_documents(store, SplitConfig(file=split_file))
    every = make_windows(store, range(len(store.documents)), CONTEXT)
    wanted = np.array([not sources or d.source in sources for d in store.documents])
    held = np.random.default_rng(0).random(len(every)) < HELD_OUT
    test = make_windows(store, [i for i in split.test if wanted[i]], CONTEXT)
    return [
        Division("windows at random", every.select(~held), every.select(held & wanted[every.document])),
        Division("documents", make_windows(store, split.train, CONTEXT), test),
    ]


def judge(predict: Predict, store: Store, where: Division, width: int) -> dict[str, Any]:
    """Mean cosine, and that less the linear average's, with intervals over documents; mean squared error of
    the raw prediction."""
    cosines, errors, documents = [], [], where.evaluated.document
    for block in where.evaluated.blocks(BLOCK):
        goal = gather_rows(store.vectors, block.target)
        raw = predict(*gather_contexts(store.vectors, block, width))
        cosines.append((unit(raw) * unit(goal)).sum(axis=1))
        errors.append(np.square(raw - goal).mean(axis=1))
    found = np.concatenate(cosines).astype(np.float64)
    less = estimate(documents, found, where.average(store)).to_json()
    return {**estimate(documents, found).to_json("cosine"), "mse": float(np.concatenate(errors).mean())} | {
        "less_linear_average": less
    }


def model_predict(model: NextVectorModel) -> Predict:
    def predict(contexts: FloatArray, lengths: np.ndarray) -> FloatArray:
        with torch.no_grad():
            raw = model(torch.from_numpy(contexts), torch.from_numpy(lengths)).raw
        return raw[:, -1].reshape(len(contexts), -1).numpy()  # every context is full

    return predict


def train(name: str, store: Store, where: Division, updates: int, precision: str) -> dict[str, Any]:
    """A model by recipe `brief`: its best epoch, evaluated on the windows that chose it."""
    config = make_config("brief", {"model": {"name": name, "preset": "brief"}}).optim
    torch.manual_seed(0)
    model, rng, plateau = build(name, "brief", store.dimension), np.random.default_rng(0), Plateau()
    optimiser = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay, fused=True)
    done, best, started, history = 0, {"cosine": -1.0}, time.process_time(), []
    while done < updates:
        model.train()
        order = rng.permutation(len(where.train))
        for i in range(0, len(order) - config.batch_size + 1, config.batch_size):
            if done == updates:
                break
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config, done, updates, plateau)
            batch = where.train.select(order[i : i + config.batch_size])
            contexts, lengths = gather_contexts(store.vectors, batch, CONTEXT)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                message = model(torch.from_numpy(contexts), torch.from_numpy(lengths)).raw[:, -1]
            goal = torch.from_numpy(gather_rows(store.vectors, batch.target))
            F.mse_loss(message.float().reshape(goal.shape), goal).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done += 1
        figures = judge(model_predict(model.eval()), store, where, CONTEXT)
        plateau.update(figures["mse"], config)
        history.append(round(figures["cosine"], 4))
        best = max(best, figures, key=lambda row: row["cosine"])
    seconds = round(time.process_time() - started)
    return {**best, "updates": updates, "epochs": history, "precision": precision, "cpu_seconds": seconds}


def of_baselines(store: Store, where: Division) -> dict[str, Any]:
    """Every baseline fitted and evaluated on one division, and the size of it."""
    kinds: list[type[Baseline]] = [*(BASELINES[name] for name in SHOWN), Neighbours]
    rows = {}
    for kind in kinds:
        made = kind(CONTEXT)
        made.fit(store.vectors, where.train, None)
        rows[made.name] = {**judge(made.guess, store, where, made.context), **made.metadata}
    sizes = {"train_windows": len(where.train), "judged_windows": len(where.evaluated)}
    return {**sizes, "documents": len(np.unique(where.evaluated.document)), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--split-file", required=True)
    parser.add_argument("--judge-sources", default="", help="judge windows of these sources only")
    parser.add_argument("--updates", default="", help="models to train, as NAME=UPDATES,NAME=UPDATES")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    both = divisions(store, arguments.split_file, [s for s in arguments.judge_sources.split(",") if s])
    result = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
    if not result:
        result = {"store": Path(arguments.store).name, "context": CONTEXT}
        result["divisions"] = {division.name: of_baselines(store, division) for division in both}
        write_json(arguments.json, result)
    held = [result["divisions"][division.name]["rows"] for division in both]
    print(f"| predictor | {' | '.join(f'{d.name}: cosine | over the linear average' for d in both)} |")
    print("|---|---:|---|---:|---|")
    for name in held[1]:
        print(f"| {name} | {' | '.join(shown(rows[name]) for rows in held)} |", flush=True)
    for pair in (p for p in arguments.updates.split(",") if p):
        name, _, updates = pair.partition("=")
        row = train(name, store, both[0], int(updates), arguments.precision)
        held[0][name] = row
        print(f"| {name}, {updates} updates | {shown(row)} | | |", flush=True)
        write_json(arguments.json, result)


def shown(row: dict[str, Any]) -> str:
    less = row["less_linear_average"]
    return f"{row['cosine']:.4f} | {less['difference']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]"


if __name__ == "__main__":
    main()
