"""Training throughput: nextvec's loop against a plain loop written the way the brief does it.

    python benchmarks/train_throughput.py STORE --models amn,lstm,gru,transformer --seconds 20
    python benchmarks/train_throughput.py --synthetic --to-validation
    python benchmarks/train_throughput.py --synthetic --models transformer,lcm --processes

The plain loop: one Python object a window, torch's DataLoader with batch 32, float32, five vectors in, the
loss at the last position only, `loss.item()` every step. Ours: recipe `scratch`, unchanged. Both train the
same architecture and preset in the same process, one after the other, on the same documents; a position is a
target that got a loss. With --to-validation both also race to the same validation cosine, evaluated on
the same windows of five. With --processes nextvec trains alone: one process with two threads, then two with
one each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nextvec.checkpoint import seed_everything
from nextvec.corpus.store import NewDocument, Store, StoreWriter
from nextvec.data.gather import gather_contexts
from nextvec.data.splits import SplitConfig, split_documents
from nextvec.data.windows import make_windows
from nextvec.disk import write_json
from nextvec.models.registry import build
from nextvec.training.config import make_config
from nextvec.training.history import read_history
from nextvec.training.loop import train, update
from nextvec.training.session import TrainingSession, open_session

CONTEXT, BATCH = 5, 32
WARM_UP = 5
Step = Callable[[], int]
Curve = list[tuple[float, float]]


@dataclass
class Loop:
    """A training loop one step at a time: `step` makes an update and says how many positions it had."""

    name: str
    model: nn.Module
    step: Step


class PlainDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The brief's: one window at a time."""

    def __init__(self, contexts: np.ndarray, targets: np.ndarray) -> None:
        self.contexts, self.targets = contexts, targets

    def __len__(self) -> int:
        return len(self.contexts)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.contexts[index]), torch.from_numpy(self.targets[index])


def windows_of(store: Store, documents: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Contexts [N, 5, D] and targets [N, D] of these documents."""
    windows = make_windows(store, documents, CONTEXT)
    return gather_contexts(store.vectors, windows, CONTEXT)[0], store.vectors.gather(windows.target)


def plain_loop(store: Store, name: str, preset: str, documents: tuple[int, ...]) -> Loop:
    """The brief's loop: AdamW, MSE, batches of 32 windows, clip 1.0."""
    seed_everything(0)
    loader = DataLoader(PlainDataset(*windows_of(store, documents)), batch_size=BATCH, shuffle=True)
    model = build(name, preset, store.dimension)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01)
    criterion = nn.MSELoss()
    losses: list[float] = []

    def steps() -> Iterator[int]:
        while True:
            for context, target in loader:
                model.train()
                optimiser.zero_grad()
                loss = criterion(model(context).raw[:, -1], target)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                losses.append(loss.item())
                yield len(context)

    running = steps()
    return Loop("plain", model, lambda: next(running))


def our_loop(
    store: Store, name: str, preset: str, split: dict[str, object], updates: int, folder: Path
) -> Loop:
    """Recipe default; `updates` lays the schedule out."""
    layers = {"model": {"name": name, "preset": preset}, "data": {"split": split}, "optim": {"epochs": 10**6}}
    layers["optim"]["max_updates"] = updates
    layers["runtime"] = {"device": "cpu"}
    session = open_session(store, make_config("scratch", layers), folder, resume=False)

    def steps(session: TrainingSession) -> Iterator[int]:
        while True:
            for batch in session.training.epoch(session.state.epoch):
                session.network.train()
                update(session, batch)
                yield batch.positions
            session.state.epoch += 1
            session.state.batch = 0

    running = steps(session)
    return Loop("nextvec", session.model, lambda: next(running))


def positions_per_second(loop: Loop, seconds: float) -> tuple[float, float]:
    """Positions and updates a second, after a few updates that do not count."""
    for _ in range(WARM_UP):
        loop.step()
    positions = updates = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        positions += loop.step()
        updates += 1
    return positions / elapsed, updates / elapsed


def race(loop: Loop, seconds: float, contexts: torch.Tensor, targets: torch.Tensor) -> Curve:
    """(training seconds, validation cosine) at 30 moments of `seconds`; judging is not counted."""
    curve: Curve = []
    trained = 0.0
    while trained < seconds:
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 30:
            loop.step()
        trained += spent
        loop.model.eval()
        with torch.no_grad():
            predicted = torch.cat([loop.model(block).raw[:, -1] for block in contexts.split(512)])
        curve.append((trained, float(nn.functional.cosine_similarity(predicted, targets).mean())))
    return curve


def seconds_to(curve: Curve, level: float) -> float:
    """When the curve first reached `level`."""
    return next(seconds for seconds, cosine in curve if cosine >= level)


def synthetic_store(folder: Path, documents: int = 200, count: int = 60, dimension: int = 384) -> Store:
    """Unit vectors around a slowly moving hidden state."""
    rng = np.random.default_rng(0)
    state, rows = rng.standard_normal((documents, dimension)), []
    for _ in range(count):
        state = 0.9 * state + 0.44 * rng.standard_normal(state.shape)
        rows.append(state + 0.5 * rng.standard_normal(state.shape))
    vectors = np.stack(rows, axis=1).reshape(-1, dimension)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = [NewDocument.from_chunks(f"d{i}", [f"{i} {j}" for j in range(count)]) for i in range(documents)]
    encoder = {"name": "synthetic", "fingerprint": "synthetic"}
    with StoreWriter(
        folder, encoder=encoder, dimension=dimension, chunker={"name": "none"}, normalised=True
    ) as writer:
        writer.add_shard(made, vectors, path="synthetic")
    return Store.open(folder)


def measure(store: Store, name: str, options: argparse.Namespace, scratch: Path) -> dict[str, float | str]:
    """One model's row of the table."""
    split = {"file": options.split_file} if options.split_file else {"near_duplicate": 1.0}
    documents = split_documents(store, SplitConfig(**split))
    plain = plain_loop(store, name, options.preset, documents.train)
    ours = our_loop(store, name, options.preset, split, 10**6, scratch / f"{name}-rate")
    theirs_rate, _ = positions_per_second(plain, options.seconds)
    ours_rate, ours_updates = positions_per_second(ours, options.seconds)
    row: dict[str, float | str] = {"model": name, "plain": theirs_rate, "nextvec": ours_rate}
    row["ratio"] = ours_rate / theirs_rate
    if options.to_validation:
        contexts, targets = (torch.from_numpy(a) for a in windows_of(store, documents.validation))
        budget = options.to_validation
        plain = plain_loop(store, name, options.preset, documents.train)
        updates = max(int(ours_updates * budget), 1)
        ours = our_loop(store, name, options.preset, split, updates, scratch / f"{name}-race")
        curves = [race(loop, budget, contexts, targets) for loop in (plain, ours)]
        level = min(max(cosine for _, cosine in curve) for curve in curves)
        row |= {
            "level": level,
            "best_plain": max(c for _, c in curves[0]),
            "best_nextvec": max(c for _, c in curves[1]),
        }
        row |= {
            "seconds_plain": seconds_to(curves[0], level),
            "seconds_nextvec": seconds_to(curves[1], level),
        }
        row["speedup"] = float(row["seconds_plain"]) / float(row["seconds_nextvec"])
    return row


def on_processes(store: Store, name: str, preset: str, split: dict[str, object], folder: Path) -> None:
    """Print updates a second of one process with two threads and of two with one; the first epoch does not
    count."""
    for devices, threads in ((1, 2), (2, 1), (1, 2), (2, 1)):
        runtime = {"device": "cpu", "devices": devices, "threads": threads}
        layers = {"model": {"name": name, "preset": preset}, "data": {"split": split}, "runtime": runtime}
        layers["optim"] = {"epochs": 4}
        out = Path(tempfile.mkdtemp(dir=folder))
        train(store, make_config("scratch", layers), out, quiet=True)
        first, *_, last = read_history(out)
        seconds = last["positions"] / last["positions_per_second"]
        updates = (last["update"] - first["update"]) / (len(read_history(out)) - 1)
        print(
            f"{name:<12} {devices} x {threads} threads: {updates / seconds:6.2f} updates/s, loss "
            f"{last['train']['loss']:.4f}",
            flush=True,
        )


def show(row: dict[str, float | str]) -> None:
    """One line a model."""
    text = (
        f"{row['model']:<12} plain {row['plain']:>9,.0f}/s  nextvec {row['nextvec']:>9,.0f}/s  "
        f"x{row['ratio']:.1f}"
    )
    if "level" in row:
        text += (
            f"   to cosine {row['level']:.4f}: plain {row['seconds_plain']:.1f} s, nextvec "
            f"{row['seconds_nextvec']:.1f} s, x{row['speedup']:.1f}   best: plain {row['best_plain']:.4f}, "
            f"nextvec {row['best_nextvec']:.4f}"
        )
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", nargs="?", type=Path)
    parser.add_argument("--synthetic", action="store_true", help="make a store of 200 x 60 vectors of 384")
    parser.add_argument("--models", default="amn,lstm,gru,transformer")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each loop")
    parser.add_argument("--to-validation", type=float, metavar="SECONDS", help="race for so long, too")
    parser.add_argument("--split-file", help="JSON with the document ids of train, validation and test")
    parser.add_argument("--processes", action="store_true", help="one process against two, instead")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.store is None) != options.synthetic:
        sys.exit("give a store or --synthetic")
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = synthetic_store(folder / "store") if options.synthetic else Store.open(options.store)
        print(
            f"{len(store):,} chunks of {store.dimension}, preset {options.preset}, "
            f"{torch.get_num_threads()} threads; targets a second"
        )
        rows = []
        for name in options.models.split(","):
            if options.processes:
                split = {"file": options.split_file} if options.split_file else {"near_duplicate": 1.0}
                on_processes(store, name, options.preset, split, folder)
                continue
            rows.append(measure(store, name, options, folder))
            show(rows[-1])
    if options.json:
        write_json(options.json, json.loads(json.dumps({"threads": torch.get_num_threads(), "rows": rows})))


if __name__ == "__main__":
    main()
