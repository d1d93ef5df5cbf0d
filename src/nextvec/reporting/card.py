"""The model card of a run: a README.md for people, with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from nextvec.corpus.reading import LOCAL
from nextvec.corpus.store import Store
from nextvec.data.trained import TRAINED_ON, TrainedOn, key, known
from nextvec.disk import read_json, write_text
from nextvec.errors import RunError
from nextvec.evaluation.bootstrap import LEVEL
from nextvec.evaluation.metrics import METRICS
from nextvec.evaluation.report import COMPARED
from nextvec.evaluation.table import FIGURES
from nextvec.experiments.judging import evaluate_flags
from nextvec.experiments.matrix import TABLE, read_table
from nextvec.models.saving import CONFIG as MODEL
from nextvec.models.saving import WEIGHTS
from nextvec.reporting.material import JUDGED, Material, Run
from nextvec.reporting.pages import render
from nextvec.training.config import DataConfig, TrainConfig, read_config
from nextvec.training.session import CONFIG

CARD = "README.md"
MARK = "<!-- Written by nextvec card, which replaces no README.md without this line. -->"
UNKNOWN = "unknown"
"""As the Hub calls a licence that nobody has named."""
TRAIN_AGAIN = "restore the file, or train again"
Facts = dict[str, str]


@dataclass(frozen=True)
class Standing:
    """Where a run stands in a table that it was judged in.

    Attributes:
        table: all of it.
        row: the row of the run and, where there are several, of the other seeds.
        own: the figures of the run alone.
    """

    table: Mapping[str, Any]
    row: Mapping[str, Any]
    own: Mapping[str, Any]

    @classmethod
    def find(cls, material: Material) -> Standing | None:
        """Of the run of `material`: as it was judged just now, by the matrix that it belongs to, or by its own
        last report; None where it was not. Raises RunError for a damaged table."""
        folder = material.folder.resolve()
        if material.table is not None:
            return cls._in(material.table, WEIGHTS)
        matrix = folder.parents[1] if len(folder.parents) > 1 else folder
        if (matrix / TABLE).is_file():
            found = cls._in(read_table(matrix), f"{folder.parent.name}/{folder.name}/{WEIGHTS}")
            if found is not None:
                return found
        if (folder / JUDGED).is_file():
            return cls._in(read_json(folder / JUDGED, RunError, remedy="make the report again"), WEIGHTS)
        return None

    @classmethod
    def _in(cls, table: Mapping[str, Any], weights: str) -> Standing | None:
        """In the first of the tables that judged this file of weights."""
        for each in (table, *table.get("others", {}).values()):
            for row in each["rows"]:
                for own in row.get("per_seed", []):
                    if own.get("model_file") == weights:
                        return cls(each, row, {**row, **own} if row["seeds"] == 1 else own)
        return None

    def figures(self) -> Iterator[tuple[str, float, str, Mapping[str, Any] | None]]:
        """Metric, the row's figure, the best baseline's name and the difference from it; what is not known of
        the row is left out."""
        for metric in COMPARED:
            figure, best = self.row.get(metric), self.table["best_baseline"].get(metric)
            if figure is not None and best is not None:
                yield metric, figure, best, self.row["versus_best_baseline"].get(metric)

    def baseline(self, name: str, metric: str) -> float:
        """A figure of one baseline."""
        return float(next(row[metric] for row in self.table["rows"] if row["name"] == name))


@dataclass(frozen=True)
class Subject:
    """The run that a card is about.

    Attributes:
        saved: its config.json: what travels with the weights.
    """

    run: Run
    store: Store | None
    config: TrainConfig
    saved: Mapping[str, Any]
    standing: Standing | None

    @classmethod
    def of(cls, material: Material) -> Subject:
        """The one run of `material`. Raises RunError: a matrix, or a run without a model."""
        if material.kind != "run":
            raise RunError("holds many runs", where=material.folder, remedy="give the folder of one of them")
        if not (material.folder / WEIGHTS).is_file() or not material.runs[0].history:
            raise RunError(
                "has no model yet", where=material.folder, remedy="go on with nextvec train --resume"
            )
        return cls(
            run=material.runs[0],
            store=material.store,
            config=read_config(material.folder / CONFIG),
            saved=read_json(material.folder / MODEL, RunError, remedy=TRAIN_AGAIN),
            standing=Standing.find(material),
        )

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.saved["config"]["d_embed"])

    @property
    def encoder(self) -> str:
        """Its name."""
        return str(self.saved["encoder"].get("name", UNKNOWN))

    @property
    def store_name(self) -> str:
        """Of the store trained on; not the path, which is of one machine."""
        return Path(self.saved["training"]["store"]).name

    @property
    def parameters(self) -> int | None:
        """What was learned."""
        return self.run.facts.get("parameters")


def make_card(material: Material, *, licence: str = UNKNOWN) -> str:
    """The card of a run as Markdown.

    Args:
        material: of a run, with or without its store; figures come from `material.table` or, where it has
            none, from the matrix that the run belongs to.
        licence: of the weights, as the Hub names licences.
    Raises:
        RunError: a matrix, a run without a model yet, or a damaged file.
    """
    subject = Subject.of(material)
    return render(
        "card.md.j2",
        metadata=metadata(subject, licence),
        mark=MARK,
        name=subject.run.name,
        what=what(subject),
        data=data_facts(subject),
        sources=sources(subject),
        protocol=protocol_facts(subject),
        standing=subject.standing,
        judged=None if subject.standing is None else judged(subject.standing),
        seeds=None if subject.standing is None else seeds(subject.standing),
        limits=list(limits(subject, licence)),
        use=use(subject),
        dimension=subject.dimension,
        folder_python=json.dumps(subject.run.name, ensure_ascii=False),
        folder=shlex.quote(subject.run.name),
        flags=evaluate_flags(subject.config.data),
        reads_text=subject.config.data.task == "next" and subject.saved["encoder"].get("kind") == LOCAL,
    )


def write_card(folder: Path, text: str) -> Path:
    """Put a card into a run. Raises RunError: a README.md is there that somebody else wrote."""
    path = folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise RunError("was not written by nextvec card", where=path, remedy="move it away, or give --out FILE")
    write_text(path, text)
    return path


def metadata(subject: Subject, licence: str) -> str:
    """YAML for the Hub: what it is and, if it was judged, its results with their intervals."""
    card = ModelCardData(
        license=licence,
        library_name="nextvec",
        tags=["next-vector-prediction", "sentence-embeddings", subject.run.architecture],
        model_name=subject.run.name,
        eval_results=None if subject.standing is None else list(results(subject, subject.standing)),
    )
    if subject.standing is None:
        card.model_name = None  # it stands in the index of results only
    text: str = card.to_yaml()
    return text


def results(subject: Subject, standing: Standing) -> Iterator[EvalResult]:
    """The run's own figures; the intervals are of the row's difference from the best baseline."""
    table = standing.table
    for metric, _, best, difference in standing.figures():
        if standing.own.get(metric) is None:
            continue
        interval = {} if difference is None else {k: difference[k] for k in ("difference", "low", "high")}
        yield EvalResult(
            task_type="feature-extraction",
            task_name=asked(subject.config.data),
            dataset_type="nextvec-store",
            dataset_name=subject.store_name,
            dataset_split=table["split"],
            metric_type=metric,
            metric_name=f"{metric} on {table['windows']} windows of {table['documents']} documents",
            metric_value=standing.own[metric],
            metric_args={"best_baseline": best, **interval, "confidence": LEVEL, "seeds": standing.row["seeds"]},
        )


def asked(data: DataConfig) -> str:
    """What is predicted, in words."""
    if data.task == "middle":
        return f"the vector of the chunk missing amid {data.context} others"
    ahead = [str(horizon) for horizon in data.horizons]
    if ahead == ["1"]:
        return "the vector of the next chunk"
    return f"the vector of the chunk {' and '.join(ahead)} ahead"


def what(subject: Subject) -> str:
    """The model in a sentence or two."""
    count = "" if subject.parameters is None else f" with {subject.parameters:,} parameters"
    read = f"up to {subject.config.data.context} chunks of a document as vectors of {subject.dimension} numbers"
    told = " It can be told a later chunk to write towards." if subject.config.data.conditional else ""
    return (
        f"A {subject.run.architecture}{count} that reads {read}, made by the encoder {subject.encoder}, "
        f"and predicts {asked(subject.config.data)}.{told}"
    )


def data_facts(subject: Subject) -> Facts:
    """What it was trained on."""
    training, facts = subject.saved["training"], subject.run.facts
    chunker = ", ".join(f"{name} {value}" for name, value in training.get("chunker", {}).items())
    limited = ", ".join(training.get("sources", [])) or "all"
    return {
        "Store": subject.store_name,
        "Encoder": f"{subject.encoder}, fingerprint {subject.saved['encoder']['fingerprint'][:16]}",
        "Vectors": "of unit length" if training.get("normalised") else "as the encoder gives them",
        "Chunks": chunker or UNKNOWN,
        "Sources": limited,
        "Documents trained on": f"{training['documents']:,}",
        "Targets": f"{facts['targets']:,} in training, {facts['validation_targets']:,} in validation"
        if "targets" in facts
        else UNKNOWN,
        "Division": division(subject.config.data),
    }


def division(data: DataConfig) -> str:
    """How documents were divided."""
    split = data.split
    if split.file is not None:
        return f"by document, as listed in {Path(split.file).name}"
    return (
        f"by a hash of each document's id: {split.validation:.0%} validation, {split.test:.0%} test, "
        "near-duplicates kept together"
    )


def sources(subject: Subject) -> list[tuple[str, str, str]]:
    """Source, documents and chunks trained on; empty where the store is not at hand."""
    listed = subject.run.folder / TRAINED_ON
    if subject.store is None or not listed.is_file():
        return []
    documents = subject.store.documents
    keys = np.fromiter((key(d.doc_id) for d in documents), np.uint64, len(documents))
    seen = [documents[i] for i in np.flatnonzero(known(TrainedOn.load(listed).ids, keys))]
    counted, chunks = Counter(d.source for d in seen), Counter[str]()
    for document in seen:
        chunks[document.source] += document.count
    return [(name, f"{n:,}", f"{chunks[name]:,}") for name, n in sorted(counted.items())]


def protocol_facts(subject: Subject) -> Facts:
    """How it was trained, and what came of it on the validation documents."""
    config, run = subject.config, subject.run
    optim, data = config.optim, config.data
    options = ", ".join(f"{name} {value}" for name, value in config.model.options.items())
    weights = config.loss.weights()
    terms = [name.removeprefix("loss.") for name in run.history[0]["train"] if name.startswith("loss.")]
    best = max(run.history, key=lambda line: line["epoch"] == subject.saved.get("epoch"))
    return {
        "Architecture": f"{config.model.name}, preset {config.model.preset}{f', {options}' if options else ''}",
        "Task": asked(data),
        "Context": f"{data.min_context} to {data.context} chunks",
        "Loss": ", ".join(f"{weights[name]:g} x {name}" for name in terms),
        "Optimiser": f"AdamW, learning rate {optim.lr:g} ({optim.schedule}), weight decay "
        f"{optim.weight_decay:g}, batches of {optim.batch_size}, gradients clipped at {optim.clip:g}",
        "Length": f"{run.history[-1]['update']:,} updates in {len(run.history)} epochs, "
        f"{run.history[-1]['seconds']:,.0f} s{ended(run)}",
        "Seed": str(config.runtime.seed),
        "Ran on": f"{run.facts.get('device', UNKNOWN)} in {run.facts.get('precision', UNKNOWN)}",
        "Versions": ", ".join(
            f"{name} {version}"
            for name, version in {
                "nextvec": run.facts.get("nextvec", UNKNOWN),
                **run.facts.get("packages", {}),
            }.items()
        ),
        "These weights": f"epoch {best['epoch']}, the best by validation {optim.select}",
        "Validation cosine": f"{best['validation']['cosine']:.4f}: it chose the epoch, so it flatters",
    }


def ended(run: Run) -> str:
    """How the training ended."""
    return ", not finished" if run.result is None else f", until {run.result['stopped']}"


def judged(standing: Standing) -> dict[str, Any]:
    """What the template says of the table: "on", "rows" [metric, figure, best baseline, its, difference,
    reading]."""
    table = standing.table
    words = {True: "better", False: "worse", None: "not told apart"}
    rows = []
    for metric, figure, best, difference in standing.figures():
        form = FIGURES[metric][1]
        said = "", ""
        if difference is not None:
            middle, low, high = (form.replace("{:", "{:+").format(difference[k]) for k in ("difference", "low", "high"))
            said = f"{middle} [{low}, {high}]", words[difference["better"]]
        direction = METRICS[metric].better
        rows.append([f"{metric} ({direction} is better)", form.format(figure), best,
                     form.format(standing.baseline(best, metric)), *said])  # fmt: skip
    return {"rows": rows, "chance": table["chance"].get("recall@1")}


def seeds(standing: Standing) -> str:
    """Of how many runs the figures are, and this run's own among several."""
    count = standing.row["seeds"]
    if count == 1:
        return "The figures are of this run."
    own = ", ".join(
        f"{metric} {FIGURES[metric][1].format(standing.own[metric])}"
        for metric in ("cosine", "mse", "recall@1", "recall@5", "mrr")
        if standing.own.get(metric) is not None
    )
    return f"The figures are means of {count} runs that differ in their seed only. This run alone: {own}."


def use(subject: Subject) -> list[str]:
    """What it is meant for."""
    if subject.config.data.task == "middle":
        return ["Finding what is missing amid chunks that are known: the nearest passage to the prediction."]
    return [
        "Finding the passages that may come next in a document, by their closeness to the prediction.",
        "Telling how unexpected a chunk is, and so where a document changes its topic.",
        "Studying models that predict in the space of sentence embeddings.",
    ]


def limits(subject: Subject, licence: str) -> Iterator[str]:
    """What must not be expected of it."""
    yield "It predicts vectors, not text: a search or a decoder makes text of them, and may add errors."
    yield (
        f"It reads vectors of {subject.encoder} (the fingerprint is checked), of documents cut as above. Those "
        "of any other encoder mean nothing to it."
    )
    yield "It says nothing about documents unlike those above. What these are biased towards, it is too."
    if subject.run.result is None:
        yield "Its training was interrupted: these are the best weights so far."
    standing = subject.standing
    if standing is not None:
        yield from standing_limits(standing)
    if not subject.saved["config"].get("confidence"):
        yield "It gives no probability that a passage follows."
    if licence == UNKNOWN:
        yield "Nobody has named a licence for the weights, nor for the documents behind them."


def standing_limits(standing: Standing) -> Iterator[str]:
    """What the table says against it."""
    found = list(standing.figures())
    worse = [f"{metric} ({best})" for metric, _, best, d in found if d is not None and d["better"] is False]
    if worse:
        yield f"A simple baseline is clearly better by {', '.join(worse)}: use that one where it is what counts."
    if not any(d is not None and d["better"] for _, _, _, d in found):
        yield "It is not clearly better than the best baseline by any figure."
    if standing.table["in_sample"]:
        yield "It was judged on documents that it was trained on: that says nothing of new ones."
    if standing.row["seeds"] == 1:
        yield "One run was trained: what another seed would change is not known."
    yield "The documents judged are of the same store as those trained on; other documents may be harder."
