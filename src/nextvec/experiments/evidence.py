"""The checks of `nextvec verify`, one function each, on what lies in the run folder and in the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nextvec.config import to_dict
from nextvec.corpus.store import Store
from nextvec.data.splits import SPLITS, Split, SplitConfig, split_documents
from nextvec.data.trained import TRAINED_ON, TrainedOn, digest, key, known
from nextvec.errors import NextvecError, RunError, StoreError
from nextvec.evaluation.evaluation_set import LIMIT
from nextvec.experiments.evaluating import with_its_file
from nextvec.experiments.runs import RunFolder
from nextvec.experiments.verify import Check, Status
from nextvec.models import registry
from nextvec.models.base import NextVectorModel
from nextvec.models.saving import GOLDEN, code_version, load_model
from nextvec.training.build import model_options, split_batches
from nextvec.training.saved import saved_figures

TOLERANCE = 1e-6
WHILE_TRAINING = {"float32": 1e-6, "bfloat16": 2e-3}
ON_A_DEVICE = 1e-3
"""How far a figure taken while training, in that precision, may lie from the same in float32 on the CPU."""
Finding = tuple[Status, str]


class Unchecked(Exception):  # noqa: N818 - nothing is wrong with what cannot be looked at
    """A check that cannot be made; the message says why."""


class Evidence:
    """What the checks look at, each part loaded once.

    Args:
        store, split_file: where they lie now; by default where the run says.
    Raises:
        RunError, StoreError, SplitError, ConfigError: no run, no saved model, no store, no split file there.
    """

    def __init__(self, run: Path, store: Path | None, split_file: Path | None) -> None:
        files = RunFolder.read(run, history=False)
        self.run, self.config, self.info = run, files.settings, files.saved
        self.metadata, self.result = files.metadata, files.result or {}
        self.training: dict[str, Any] = self.info.get("training") or {}
        if not self.info:
            message = "holds no saved model yet"
            raise RunError(message, where=run, remedy="finish an epoch: train with --resume")
        self.store = self._store(store)
        given = None if split_file is None else SplitConfig(file=str(split_file))
        self.division = with_its_file(given or self.config.data.split)
        self.identity: dict[str, Any] = self.metadata.get("identity") or {}
        # A store only ever grows at its end: what came after the training is left out of it.
        self.held = min(int(self.identity.get("store.documents", 2**62)), len(self.store.documents))

    def _store(self, given: Path | None) -> Store:
        recorded = self.training.get("store")
        if given is None and not isinstance(recorded, str):
            message = "does not name its store"
            raise RunError(message, where=self.run / "config.json", remedy="give it: --store")
        try:
            return Store.open(given or str(recorded))
        except StoreError as e:
            raise StoreError(e.message, where=e.where, remedy="give the store: --store") from None

    @cached_property
    def model(self) -> NextVectorModel:
        return load_model(self.run)[0]

    @cached_property
    def split(self) -> Split:
        """The documents as they were divided for training. Raises SplitError."""
        found = split_documents(self.store, self.division, self.config.data.sources)
        train, validation, test = (tuple(i for i in found.of(n) if i < self.held) for n in SPLITS)
        return Split(train, validation, test, views=found.views)

    @cached_property
    def trained_on(self) -> TrainedOn:
        return TrainedOn.load(self.run / TRAINED_ON)

    def need(self, **parts: str) -> None:
        """Raise Unchecked when a part cannot be loaded; the part's own check says so in red."""
        for part, words in parts.items():
            try:
                getattr(self, part)
            except NextvecError:
                raise Unchecked(f"{words} cannot be loaded") from None


def examine(run: Path, store: Path | None = None, split_file: Path | None = None) -> list[Check]:
    """Make every check in this process. Raises as `Evidence`."""
    evidence = Evidence(run, store, split_file)
    found = []
    for name, check in CHECKS.items():
        status: Status
        try:
            status, text = check(evidence)
        except Unchecked as e:
            status, text = "note", f"not checked: {e}"
        except NextvecError as e:
            status, text = "RED", str(e)
        found.append(Check(name, status, text))
    return found


def answer(request: str) -> dict[str, Any]:
    """What the fresh process says: the checks, or the error that kept it from making them."""
    given = json.loads(request)
    store, split_file = (None if given[k] is None else Path(given[k]) for k in ("store", "split_file"))
    try:
        return {"checks": [asdict(check) for check in examine(Path(given["run"]), store, split_file)]}
    except NextvecError as e:
        return {"error": type(e).__name__, "message": e.message, "where": e.where, "remedy": e.remedy}


def golden_output(e: Evidence) -> Finding:
    """Weights, configuration and code answer what they answered when the model was saved."""
    model = e.model
    golden = load_file(e.run / GOLDEN)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        raw = model.to(golden["input"].dtype)(golden["input"]).raw
    off = float((raw - golden["raw"]).abs().max()) / max(1.0, float(golden["raw"].abs().max()))
    if not off <= TOLERANCE:
        return "RED", f"the saved model answers off by {off:.1e}: weights, code or libraries have changed"
    return "ok", f"reproduced, largest deviation {off:.1e}"


def code(e: Evidence) -> Finding:
    """The architecture's source files are those that the model was saved by."""
    e.need(model="the model")
    saved, now = e.info.get("code_version"), code_version(type(e.model))
    if saved != now:
        return "note", f"saved by code {saved}, loaded by {now}: the other checks show whether that matters"
    return "ok", f"version {now}, as saved"


def configuration(e: Evidence) -> Finding:
    """The run's configuration and what the saved model says of itself are the same."""
    wanted, data = e.config.model, e.config.data
    pairs = {
        "architecture": (wanted.name, e.info.get("architecture")),
        "context": (data.context, e.training.get("context")),
        "min_context": (data.min_context, e.training.get("min_context")),
        "horizons": (list(data.horizons), e.training.get("horizons") or [e.training.get("horizon")]),
        "task": (data.task, e.training.get("task", "next")),
        "sources": (list(data.sources), e.training.get("sources")),
        "split": (to_dict(data.split), to_dict(e.training.get("split"))),
    }
    held = e.info.get("config")
    if isinstance(held, dict):
        pairs |= {f"model.options.{k}": (v, held.get(k)) for k, v in wanted.options.items()}
    wrong = [f"{name} {one} and {other}" for name, (one, other) in pairs.items() if one != other]
    if wrong:
        return "RED", f"config.toml and config.json differ: {'; '.join(wrong)}"
    sizes = to_dict(
        registry.resolve(wanted.name, wanted.preset, e.store.dimension, **model_options(e.config))
    )
    if sizes != held:
        return "note", f"preset '{wanted.preset}' of {wanted.name} has changed since; the saved sizes hold"
    return "ok", f"{wanted.name}, preset '{wanted.preset}', as saved with the model"


def reported(e: Evidence) -> Finding:
    """Result, history and saved model tell the same best epoch and figure."""
    record = RunFolder.read(e.run).record()
    if not record.epochs:
        return "RED", "a model is saved, but the history has no epoch"
    best = record.best
    figure, saved = best.validation["cosine"], e.info.get("validation") or {}
    recorded = [("config.json", e.info.get("epoch"), saved.get("cosine"))]
    if e.result:
        recorded.append(("metrics.json", e.result.get("epoch"), e.result.get("cosine")))
    for name, epoch, cosine in recorded:
        if epoch != best.epoch or cosine != figure:
            text = f"{name} has cosine {cosine} in epoch {epoch}, the history {figure} in epoch {best.epoch}"
            return "RED", text
    if not e.result:
        return "note", f"unfinished run; best so far cosine {figure:.6f} in epoch {best.epoch}"
    load_model(e.run / "final")
    return "ok", f"cosine {figure:.6f} in epoch {best.epoch} in every file; the last model loads too"


def encoder(e: Evidence) -> Finding:
    """The store's vectors are of the encoder that the model was trained on."""
    trained, here = e.info.get("encoder") or {}, e.store.encoder
    if trained.get("fingerprint") != here.get("fingerprint"):
        names = f"trained on '{trained.get('name')}', the store is of '{here.get('name')}'"
        return "RED", f"{names} (fingerprints differ)"
    return "ok", f"{here.get('name')}, fingerprint {str(here['fingerprint'])[:16]}"


def vectors(e: Evidence) -> Finding:
    """The store is undamaged, and its vectors are those trained on."""
    fingerprint = e.training.get("store_fingerprint")
    if fingerprint != e.store.fingerprint:
        other = f"trained on store {fingerprint}, this one is {e.store.fingerprint}"
        return "RED", f"{other} (encoder or chunker differ)"
    Store.open(e.store.path, verify=True)
    if "store.vectors" not in e.identity:
        raise Unchecked("the run does not hold which vectors it was trained on")
    shards = [shard["vectors_sha256"] for shard in e.store.info["shards"]]
    if digest(shards[: e.identity.get("store.shards")]) != e.identity["store.vectors"]:
        return "RED", "the store holds other vectors than those trained on (sha256 differ)"
    grown = len(e.store.documents) - e.held
    more = f"; {grown} documents came later and are left out" if grown else ""
    return "ok", f"{e.store.fingerprint}, checksums agree{more}"


def split(e: Evidence) -> Finding:
    """The division gives the same documents as when it was trained."""
    counts = ", ".join(f"{name} {len(e.split.of(name))}" for name in SPLITS)
    for name in ("train", "validation"):
        recorded = e.identity.get(f"split.{name}")
        if recorded is None:
            raise Unchecked(f"the run does not hold which documents it was trained on ({counts})")
        if digest([e.store.documents[i].doc_id for i in e.split.of(name)]) != recorded:
            return "RED", f"the {name} documents are not those of the training ({counts} now)"
    return "ok", f"the documents of the training ({counts})"


def trained_on(e: Evidence) -> Finding:
    """trained_on.safetensors lists the train documents and nothing else."""
    listed = e.trained_on
    e.need(split="the split")
    due = TrainedOn.of(e.store, e.split.train)
    wrong = []
    for name in ("ids", "documents", "chunks"):
        ours, theirs = getattr(due, name), getattr(listed, name)
        missing, surplus = len(np.setdiff1d(ours, theirs)), len(np.setdiff1d(theirs, ours))
        if missing or surplus:
            wrong.append(f"{name}: {missing} missing, {surplus} too many")
    if wrong:
        return "RED", f"does not list the train documents ({'; '.join(wrong)})"
    return "ok", f"lists the {len(due.ids)} train documents and their {len(due.chunks)} different texts"


def disjoint(e: Evidence) -> Finding:
    """No document of validation or test was trained on, by id or by text."""
    e.need(trained_on="the list of what was trained on", split="the split")
    parts = []
    for name in ("validation", "test"):
        held = [e.store.documents[i] for i in e.split.of(name)]
        by_id = int(known(e.trained_on.ids, (key(d.doc_id) for d in held)).sum())
        by_text = int(known(e.trained_on.documents, (key(d.sha256) for d in held)).sum())
        if by_id or by_text:
            text = f"{by_id} of {len(held)} {name} documents were trained on by id, {by_text} by text"
            return "RED", text
        keys = TrainedOn.of(e.store, e.split.of(name)).chunks
        shared = int(known(e.trained_on.chunks, keys).sum())
        if shared > max(1, LIMIT * len(keys)):
            return "RED", f"{shared} of {len(keys)} different {name} texts were trained on"
        parts.append(f"{name}: {len(held)} documents, {shared} of {len(keys)} different texts of training")
    return "ok", f"no document was trained on ({'; '.join(parts)})"


def validation(e: Evidence) -> Finding:
    """The saved model reproduces the validation figures that were recorded of it."""
    e.need(model="the model", split="the split")
    if e.store.dimension != e.model.d_embed:
        raise Unchecked(f"the model takes {e.model.d_embed} dimensions, the store has {e.store.dimension}")
    measured = saved_figures(e.run, split_batches(e.store, e.split, "validation", e.config))
    recorded = e.result.get("verified")
    if isinstance(recorded, dict):
        wrong = _off(measured, recorded, ("cosine", "mse", "targets"), TOLERANCE)
        if wrong:
            return "RED", f"recorded of the saved model and not reproduced: {wrong}"
    precision, device = e.metadata.get("precision"), e.metadata.get("device")
    allowed = WHILE_TRAINING.get(str(precision), TOLERANCE)
    allowed = allowed if device == "cpu" else max(allowed, ON_A_DEVICE)
    wrong = _off(measured, e.info.get("validation") or {}, ("cosine",), allowed)
    if wrong:
        return "RED", f"reported by training ({precision} on {device}) and not reproduced: {wrong}"
    text = f"cosine {measured['cosine']:.6f} and mse {measured['mse']:.6g} on {measured['targets']:,} targets"
    if not isinstance(recorded, dict):
        reported = f"training reported that to {allowed:g}, but no figure of the saved model is recorded"
        return "note", f"{text}; {reported}"
    return "ok", f"{text}, to {TOLERANCE:g}; as training reported, to {allowed:g}"


def _off(measured: dict[str, Any], recorded: dict[str, Any], names: Sequence[str], allowed: float) -> str:
    """The figures that are not reproduced, in words; empty when all are."""
    wrong = []
    for name in names:
        value = recorded.get(name)
        if not isinstance(value, (int, float)) or not abs(measured[name] - value) <= allowed:
            wrong.append(f"{name} {value}, measured {measured[name]:.8g}")
    return "; ".join(wrong)


CHECKS: dict[str, Callable[[Evidence], Finding]] = {
    "golden output": golden_output,
    "code": code,
    "configuration": configuration,
    "reported figures": reported,
    "encoder": encoder,
    "store": vectors,
    "split": split,
    "trained on": trained_on,
    "disjoint": disjoint,
    "validation": validation,
}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(sys.argv[1])))
