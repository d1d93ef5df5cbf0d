"""The card of a run or an ensemble: a README.md for people, with the metadata that the Hub of Hugging Face
reads."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nextvec.checkpoint import CONFIG
from nextvec.corpus.encoders.base import UNKNOWN_CHUNKER
from nextvec.corpus.reading import LOCAL
from nextvec.corpus.store import Store
from nextvec.data.trained import TRAINED_ON, TrainedOn
from nextvec.disk import read_object, write_text
from nextvec.errors import ConfigError, RunError
from nextvec.evaluation.intervals import LEVEL
from nextvec.experiments.ensemble import EnsembleRun, load
from nextvec.experiments.evaluating import evaluate_flags
from nextvec.experiments.runs import RunFolder
from nextvec.models.saving import CONFIG as MODEL
from nextvec.models.saving import WEIGHTS
from nextvec.reporting.headline import Standing
from nextvec.reporting.inputs import ReportInputs
from nextvec.reporting.result_files import render
from nextvec.training.config import DataConfig, TrainConfig, read_config

CARD = "README.md"
MARK = "<!-- Written by nextvec card, which replaces no README.md without this line. -->"
UNKNOWN = "unknown"
"""As the Hub calls a licence that no one has named."""
LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
TRAIN_AGAIN = "restore the file, or train again"
Metadata = dict[str, str]


@dataclass(frozen=True)
class CardModel:
    """The run that a card is about.

    Attributes:
        saved: its config.json: what travels with the weights.
    """

    run: RunFolder
    store: Store | None
    config: TrainConfig
    saved: Mapping[str, Any]
    standing: Standing | None

    @classmethod
    def of(cls, inputs: ReportInputs) -> CardModel:
        """The one run of `inputs`. Raises RunError: a matrix, or a run without a model."""
        if inputs.kind != "run":
            raise RunError("holds many runs", where=inputs.folder, remedy="give the folder of one of them")
        if not (inputs.folder / WEIGHTS).is_file() or not inputs.runs[0].history:
            remedy = "go on with nextvec train --resume"
            raise RunError("has no model yet", where=inputs.folder, remedy=remedy)
        return cls(
            run=inputs.runs[0],
            store=inputs.store,
            config=read_config(inputs.folder / CONFIG),
            saved=read_object(inputs.folder / MODEL, RunError, needs={"config": dict}, remedy=TRAIN_AGAIN),
            standing=Standing.find(inputs),
        )

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.saved["config"]["d_embed"])

    @property
    def encoder(self) -> str:
        return str(self.saved["encoder"].get("name", UNKNOWN))

    @property
    def store_name(self) -> str:
        """Of the store trained on; not the path, which is of one machine."""
        return Path(self.saved["training"]["store"]).name

    @property
    def parameters(self) -> int | None:
        return self.run.metadata.get("parameters")


def make_card(inputs: ReportInputs, *, licence: str = UNKNOWN) -> str:
    """The card of a run as Markdown.

    Args:
        inputs: of a run, with or without its store; figures come from `inputs.table` or, where it has
            none, from the matrix that the run belongs to.
        licence: of the weights, as the Hub names licences.
    Raises:
        RunError: a matrix, a run without a model yet, or a damaged file.
    """
    subject = CardModel.of(inputs)
    return render(
        "card.md.j2",
        metadata=metadata(subject, licence),
        mark=MARK,
        name=subject.run.name,
        what=what(subject),
        data=data_metadata(subject),
        sources=sources(subject),
        protocol=protocol_metadata(subject),
        standing=subject.standing,
        cells=[] if subject.standing is None else [each.cells() for each in subject.standing.beside],
        limits=list(limits(subject, licence)),
        use=use(subject),
        dimension=subject.dimension,
        folder_python=json.dumps(subject.run.name, ensure_ascii=False),
        folder=shlex.quote(subject.run.name),
        flags=evaluate_flags(subject.config.data),
        reads_text=subject.config.data.task == "next" and subject.saved["encoder"].get("kind") == LOCAL,
    )


def write_card(inputs: ReportInputs, path: Path | None = None, *, licence: str | None = None) -> Path:
    """Put the card of a run into its folder, or elsewhere. Returns where.

    Args:
        licence: of the weights; None keeps the one that the card there names.
    Raises:
        ConfigError: no licence's name.
        RunError: what `make_card` raises, or a file is there that somebody else wrote.
    """
    path = inputs.folder / CARD if path is None else path
    return put_card(path, lambda name: make_card(inputs, licence=name), licence)


def put_card(path: Path, make: Callable[[str], str], licence: str | None) -> Path:
    """Write the card that `make` makes of a licence, in no file but ours. Raises as `write_card`."""
    if licence is not None and not LICENCE.fullmatch(licence):
        message, remedy = f"'{licence}' is not the name of a licence", "mit, apache-2.0, cc-by-4.0, other"
        raise ConfigError(message, where="--license", remedy=f"write it as the Hub does: {remedy}")
    if path.exists():
        held = path.read_text(encoding="utf-8", errors="replace")
        if MARK not in held:
            remedy = "move it away, or give another with --out"
            raise RunError("was not written by nextvec card", where=path, remedy=remedy)
        licence = licence or held.partition("\nlicense: ")[2].partition("\n")[0]
    write_text(path, make(licence or UNKNOWN))
    return path


def metadata(subject: CardModel, licence: str) -> str:
    """YAML for the Hub: what it is and, if it was evaluated, its results with their intervals."""
    found = None if subject.standing is None else list(results(subject, subject.standing))
    # The name stands in the index of results only.
    evaluated = {} if found is None else {"model_name": subject.run.name, "eval_results": found}
    return hub_data(licence, subject.run.architecture, **evaluated)


def hub_data(licence: str, kind: str, **more: Any) -> str:
    """What the Hub reads of every card, as YAML."""
    tags = ["next-vector-prediction", "sentence-embeddings", kind]
    return str(ModelCardData(license=licence, library_name="nextvec", tags=tags, **more).to_yaml())


def results(subject: CardModel, standing: Standing) -> Iterator[EvalResult]:
    """The run's own figures; the intervals are of the row's difference from the best baseline."""
    table, seeds = standing.table, standing.row["seeds"]
    for each in standing.beside:
        if standing.own.get(each.metric) is None:
            continue
        known = each.difference or {}
        interval = {key: known[key] for key in ("difference", "low", "high") if key in known}
        yield EvalResult(
            task_type="feature-extraction",
            task_name=task_name(subject.config.data),
            dataset_type="nextvec-store",
            dataset_name=subject.store_name,
            dataset_split=table["split"],
            metric_type=each.metric,
            metric_name=f"{each.metric} on {table['windows']} windows of {table['documents']} documents",
            metric_value=standing.own[each.metric],
            metric_args={"best_baseline": each.best, **interval, "confidence": LEVEL, "seeds": seeds},
        )


def task_name(data: DataConfig) -> str:
    if data.task == "middle":
        return f"the vector of the chunk missing amid {data.context} others"
    ahead = [str(horizon) for horizon in data.horizons]
    if ahead == ["1"]:
        return "the vector of the next chunk"
    return f"the vector of the chunk {' and '.join(ahead)} ahead"


def what(subject: CardModel) -> str:
    count = "" if subject.parameters is None else f", {subject.parameters:,} parameters"
    conditional = (
        " It can be given a later chunk to write towards." if subject.config.data.conditional else ""
    )
    return (
        f"This model ({subject.run.architecture}{count}) reads up to {subject.config.data.context} chunks "
        f"of a document as vectors of {subject.dimension} numbers, made by the encoder {subject.encoder}, "
        f"and predicts {task_name(subject.config.data)}.{conditional}"
    )


def data_metadata(subject: CardModel) -> Metadata:
    training, metadata = subject.saved["training"], subject.run.metadata
    chunker = ", ".join(f"{name} {value}" for name, value in training.get("chunker", {}).items())
    if training.get("chunker", {}).get("kind") == UNKNOWN_CHUNKER:
        chunker = "imported with their vectors: how they were cut is not known"
    limited = ", ".join(training.get("sources", [])) or "all"
    return {
        "Store": subject.store_name,
        "Encoder": f"{subject.encoder}, fingerprint {subject.saved['encoder']['fingerprint'][:16]}",
        "Vectors": "of unit length" if training.get("normalised") else "as the encoder gives them",
        "Chunks": chunker or UNKNOWN,
        "Sources": limited,
        "Documents trained on": f"{training['documents']:,}",
        "Targets": f"{metadata['targets']:,} in training, {metadata['validation_targets']:,} in validation"
        if "targets" in metadata
        else UNKNOWN,
        "Division": division(subject.config.data),
    }


def division(data: DataConfig) -> str:
    """How documents were divided."""
    split = data.split
    if split.file is not None:
        return f"by document, as listed in {Path(split.file).name}"
    how = f"by a hash of each document's id: {split.validation:.0%} validation, {split.test:.0%} test"
    if split.folds:
        how = f"cross-validation by document, fold {split.fold} of {split.folds}"
    return f"{how}, near-duplicates kept together"


def sources(subject: CardModel) -> list[tuple[str, str, str]]:
    """Source, documents and chunks trained on; empty where the store is not at hand."""
    listed = subject.run.folder / TRAINED_ON
    if subject.store is None or not listed.is_file():
        return []
    documents = subject.store.documents
    seen = [documents[i] for i in TrainedOn.load(listed).among(documents)]
    counted, chunks = Counter(d.source for d in seen), Counter[str]()
    for document in seen:
        chunks[document.source] += document.count
    return [(name, f"{n:,}", f"{chunks[name]:,}") for name, n in sorted(counted.items())]


def protocol_metadata(subject: CardModel) -> Metadata:
    """How it was trained, and what came of it on the validation documents."""
    config, run = subject.config, subject.run
    optim, data = config.optim, config.data
    options = [f"{name} {value}" for name, value in config.model.options.items()]
    weights = config.loss.weights()
    terms = [name.removeprefix("loss.") for name in run.history[0]["train"] if name.startswith("loss.")]
    best = max(run.history, key=lambda line: line["epoch"] == subject.saved.get("epoch"))
    versions = {"nextvec": run.metadata.get("nextvec", UNKNOWN), **run.metadata.get("packages", {})}
    ended = ", not finished" if run.result is None else f", until {run.result['stopped']}"
    origin = subject.saved.get("origin") or {}
    started = {"Started from": f"{Path(origin['run']).name} ({origin['method']})"} if origin else {}
    return {
        **started,
        "Architecture": ", ".join([config.model.name, f"preset {config.model.preset}", *options]),
        "Task": task_name(data),
        "Context": f"{data.min_context} to {data.context} chunks",
        "Loss": ", ".join(f"{weights[name]:g} x {name}" for name in terms),
        "Optimiser": f"AdamW, learning rate {optim.lr:g} ({optim.schedule}), weight decay "
        f"{optim.weight_decay:g}, batches of {optim.batch_size}, gradients clipped at {optim.clip:g}",
        "Length": f"{run.history[-1]['update']:,} updates in {len(run.history)} epochs, "
        f"{run.history[-1]['seconds']:,.0f} s{ended}",
        "Seed": str(config.runtime.seed),
        "Ran on": f"{run.metadata.get('device', UNKNOWN)} in {run.metadata.get('precision', UNKNOWN)}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "These weights": f"epoch {best['epoch']}, the best by validation {optim.select}",
        "Validation cosine": f"{best['validation']['cosine']:.4f}: it chose the epoch, so it flatters",
    }


def use(subject: CardModel) -> list[str]:
    if subject.config.data.task == "middle":
        return ["Finding what is missing amid chunks that are known: the nearest passage to the prediction."]
    return [
        "Finding the passages that may come next in a document, by their closeness to the prediction.",
        "Telling how unexpected a chunk is, and so where a document changes its topic.",
        "Studying models that predict in the space of sentence embeddings.",
    ]


def limits(subject: CardModel, licence: str) -> Iterator[str]:
    yield "It predicts vectors, not text: a search or a decoder makes text of them, and may add errors."
    yield (
        f"It reads vectors of {subject.encoder} (the fingerprint is checked), of documents cut as above. "
        "Those of any other encoder mean nothing to it."
    )
    yield "It says nothing about documents unlike those above. It has the biases of these."
    if subject.run.result is None:
        yield "Its training was interrupted: these are the best weights so far."
    standing = subject.standing
    if standing is not None:
        yield from standing.limits()
    if not subject.saved["config"].get("confidence"):
        yield "It gives no probability that a passage follows."
    if licence == UNKNOWN:
        yield "Nobody has named a licence for the weights, nor for the documents behind them."


# The card of an ensemble.


def make_ensemble_card(ensemble: EnsembleRun, *, licence: str = UNKNOWN) -> str:
    """The card of an ensemble as Markdown: its members with their weights, and how it is used."""
    weights = zip(ensemble.members, ensemble.mixture.unit, ensemble.mixture.raw, strict=True)
    flags = [" --task middle" if ensemble.task == "middle" else ""]
    flags.append(f" --horizon {ensemble.horizon}" if ensemble.horizon > 1 else "")
    return render(
        "ensemble_card.md.j2",
        metadata=hub_data(licence, "ensemble"),
        mark=MARK,
        name=ensemble.name,
        encoder=ensemble.described.get("name", UNKNOWN),
        fingerprint=str(ensemble.encoder)[:16],
        context=ensemble.context,
        dimension=ensemble.dimension,
        horizon=ensemble.horizon,
        parameters=ensemble.metadata["parameters"],
        members=[(m.name, m.kind, f"{unit:.3f}", f"{raw:.3f}") for m, unit, raw in weights],
        folder=shlex.quote(ensemble.name),
        folder_python=json.dumps(ensemble.name, ensure_ascii=False),
        flags="".join(flags),
    )


def write_ensemble_card(folder: Path, path: Path | None = None, *, licence: str | None = None) -> Path:
    """Put the card of an ensemble into its folder, or elsewhere. Returns where.

    Raises:
        ConfigError, RunError: as `write_card`.
    """
    ensemble = load(folder)
    path = folder / CARD if path is None else path
    return put_card(path, lambda name: make_ensemble_card(ensemble, licence=name), licence)
