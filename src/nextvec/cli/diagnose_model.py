"""`nextvec diagnose model`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nextvec.cli.common import JsonTarget, Quiet, Sources, columns, names, output
from nextvec.cli.verdicts import WIDTH, Strict, finish, verdict_lines

if TYPE_CHECKING:
    from nextvec.experiments.brief import Checklist
    from nextvec.experiments.diagnose import RunModelDiagnosis


def diagnose_model(
    run: Annotated[Path, Parameter(help="A run folder.")],
    *,
    store: Annotated[Path, Parameter(help="The store to judge on; it may be another than trained on.")],
    split: Annotated[str, Parameter(help="train (labelled in-sample), validation, test or all.")] = "test",
    sources: Sources = None,
    split_file: Annotated[Path | None, Parameter(help="JSON of document ids (default: the run's).")] = None,
    context: Annotated[int, Parameter(help="Chunks read at least before each target.")] = 5,
    candidates: Annotated[
        Literal["split", "store", "document"], Parameter(help="What the true next chunk is ranked among.")
    ] = "split",
    seed: Annotated[int, Parameter(help="Of samples, shuffles and random windows.")] = 0,
    no_speed: Annotated[bool, Parameter(negative=(), help="Do not measure latency.")] = False,
    device: Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where the model predicts.")] = "cpu",
    strict: Strict = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Look at a trained model from every side, beside the baselines: has it collapsed, what does it use of
    its context, where does it gain and lose, what does it fail at, does it over-fit, does it meet the brief?

    The headline comes first, then a verdict on each part, then the figures, the brief's own criteria, and
    windows with their texts. The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    from nextvec.corpus.store import Store
    from nextvec.data.splits import SplitConfig
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.diagnose import diagnose_model
    from nextvec.experiments.evaluating import DocumentSelection
    from nextvec.inference.predictor import RunPredictor

    division = None if split_file is None else SplitConfig(file=str(split_file.resolve()))
    predictor = RunPredictor(run, device=device)
    how = EvaluationConfig(
        context=context,
        horizon=predictor.horizons[0],
        candidates=candidates,
        seed=seed,
        speed=not no_speed,
        quiet=quiet,
    )
    exam = DocumentSelection(split=split, sources=names(sources), division=division)
    found = diagnose_model(Store.open(store), predictor, exam, how)
    output(describe(found), found.to_json(), json)
    finish(found.diagnosis.verdicts, strict=strict)


def describe(found: RunModelDiagnosis) -> str:
    """Headline, verdicts, every part with its figures, the checklist, and the windows last."""
    d = found.diagnosis
    dropped = "" if found.leaks is None else f", {found.leaks.dropped:,} dropped that stand in training"
    sample = " (in-sample)" if d.split == "train" else ""
    blocks = [
        _wrap(d.headline),
        _wrap(
            f"Split {d.split}{sample} of {found.store}, {found.encoder} vectors: {d.windows:,} windows of "
            f"{d.documents:,} documents, context {d.context}, horizon {d.horizon}{dropped}. "
            "Intervals: 95 %, 1,000 resamples of the documents."
        ),
        "\n".join(["Verdicts", *verdict_lines(d.verdicts)]),
    ]
    blocks += [_section(p.title, p.lines()) for name, p in d.parts.items() if name != "examples"]
    blocks += [_section("The brief's criteria", _criteria(found.checklist))]
    blocks += [_section(d.examples.title, d.examples.lines())]
    return "\n\n".join(blocks)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, "=" * len(title), *map(_wrap, lines)])


def _wrap(line: str) -> str:
    """Sentences at the width of the verdicts; tables as they are."""
    if line.startswith(" ") or not line.endswith("."):
        return line
    return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def _criteria(found: Checklist) -> list[str]:
    count = found.count
    rows = [
        [
            c.criterion,
            c.document,
            c.asked,
            c.measured or "-",
            c.status.replace(" measurable here", " measurable"),
        ]
        for c in found.criteria
    ]
    notes: dict[str, list[str]] = {}
    for c in found.criteria:
        if c.note:
            notes.setdefault(c.note, []).append(c.criterion)
    return [
        columns(["criterion", "document", "asked", "measured", ""], rows),
        f"{count('met')} met, {count('not met')} not met ({found.reported} of these depend on the encoder), "
        f"{count('not measurable here')} not measurable.",
        *(f"{', '.join(dict.fromkeys(of))}: {note}." for note, of in notes.items()),
    ]
