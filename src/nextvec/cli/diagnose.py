"""`nextvec diagnose`: model, decoder and run; data has a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App

from nextvec.cli import common
from nextvec.cli.common import flag, output
from nextvec.cli.decoder import DecoderEvaluateFlags, DecoderStore, RunFolder, bench_of, describe_table
from nextvec.cli.text_flags import EncoderFlags
from nextvec.text import columns, fill

if TYPE_CHECKING:
    from nextvec.diagnostics.run import RunDiagnosis
    from nextvec.experiments.brief import Checklist
    from nextvec.experiments.diagnose import RunModelDiagnosis
    from nextvec.training.history import Epoch, RunRecord

DIAGNOSES = {
    "data": "Is there anything to learn in a store, and can figures taken on it be trusted?",
    "model": "Where a trained model gains and loses, and whether it has collapsed.",
    "decoder": "Where text -> vector -> model -> vector -> text breaks: the A/B/C/D test.",
    "run": "What the history of a training run shows: losses, gradients, collapse, over-fitting.",
}

diagnose = App(
    name="diagnose", help="Find out what is wrong with data, a model or a run.", help_format="plaintext"
)
for name, summary in DIAGNOSES.items():
    module = "diagnose_data" if name == "data" else "diagnose"
    diagnose.command(f"nextvec.cli.{module}:diagnose_{name}", name=name, help=summary)


def diagnose_run(
    run: Annotated[Path, flag("A run folder, finished or not.")],
    *,
    strict: common.Strict = False,
    json: common.JsonTarget = None,
) -> None:
    """Read the history of a training run: every loss term and its gradient, variance, collapse, divergence,
    over-fitting, the learning rate's schedule, speed.

    The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    from nextvec.diagnostics.run import diagnose_run
    from nextvec.experiments.runs import RunFolder

    found = diagnose_run(RunFolder.read(run).record())
    output(describe_run(found), found.to_json(), json)
    common.finish(found.verdicts, strict=strict)


def describe_run(found: RunDiagnosis) -> str:
    blocks = [f"{found.record.run}: {found.record.model}"]
    if found.record.epochs:
        blocks.append(columns(*run_table(found.record)))
    return "\n\n".join([*blocks, "Verdicts"]) + "\n" + "\n".join(common.verdict_lines(found.verdicts))


def run_table(record: RunRecord) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the history, one row an epoch, with every loss term and its gradient norm."""
    terms = record.epochs[0].terms if record.epochs else ()
    shown = terms if len(terms) > 1 else ()
    head = ["epoch", "updates", "train loss", *(f"{t}" for t in shown), "val loss", "train cos", "val cos",
            "var ratio", "std ratio", "grad norm", *(f"grad {t}" for t in shown), "lr", "s",
            "pos/s"]  # fmt: skip
    return head, [_epoch_cells(e, shown) for e in record.epochs]


def _epoch_cells(e: Epoch, terms: tuple[str, ...]) -> list[str]:
    def figure(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        *(f"{e.epoch}", f"{e.update:,}", f"{e.train['loss']:.4g}"),
        *(figure(e.train.get(f"loss.{t}"), ".4g") for t in terms),
        *(f"{e.validation['loss']:.4g}", f"{e.train['cosine']:.4f}", f"{e.validation['cosine']:.4f}"),
        *(figure(e.validation.get(ratio), ".3f") for ratio in ("variance_ratio", "std_ratio")),
        f"{e.gradient_norm:.3g}",
        *(figure(e.term_gradients.get(t), ".3g") for t in terms),
        *(f"{e.lr:.3g}", f"{e.seconds:.1f}", f"{e.speed:,.0f}"),
    ]


def diagnose_model(
    run: Annotated[Path, flag("A run folder.")],
    *,
    store: Annotated[Path, flag("The store to evaluate on; it may be another than trained on.")],
    split: common.Split = "test",
    sources: common.Sources = None,
    split_file: common.SplitFile = None,
    context: common.LeastContext = 5,
    candidates: common.Candidates = "split",
    seed: Annotated[int, flag("Of samples, shuffles and random windows.")] = 0,
    no_speed: common.NoSpeed = False,
    device: common.Device = "cpu",
    strict: common.Strict = False,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Look at a trained model from every side, beside the baselines: has it collapsed, what does it use of
    its context, where does it gain and lose, what does it fail at, does it over-fit, does it meet the brief?

    The headline comes first, then a verdict on each part, then the figures, the brief's own criteria, and
    windows with their texts. The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    from nextvec.corpus.store import Store
    from nextvec.evaluation.harness import EvaluationConfig
    from nextvec.experiments.diagnose import diagnose_model
    from nextvec.inference.predictor import RunPredictor

    predictor = RunPredictor(run, device=device)
    how = EvaluationConfig(
        context=context,
        horizon=predictor.horizons[0],
        candidates=candidates,
        seed=seed,
        speed=not no_speed,
        quiet=quiet,
    )
    found = diagnose_model(Store.open(store), predictor, common.selection(split, sources, split_file), how)
    output(describe_model(found), found.to_json(), json)
    common.finish(found.diagnosis.verdicts, strict=strict)


def describe_model(found: RunModelDiagnosis) -> str:
    """Headline, verdicts, every part with its figures, the checklist, and the windows last."""
    d = found.diagnosis
    dropped = "" if found.leaks is None else f", {found.leaks.dropped:,} dropped that stand in training"
    sample = " (in-sample)" if d.split == "train" else ""
    blocks = [
        fill(d.headline),
        fill(
            f"Split {d.split}{sample} of {found.store}, {found.encoder} vectors: {d.windows:,} windows of "
            f"{d.documents:,} documents, context {d.context}, horizon {d.horizon}{dropped}. "
            "Intervals: 95 %, 1,000 resamples of the documents."
        ),
        "\n".join(["Verdicts", *common.verdict_lines(d.verdicts)]),
    ]
    blocks += [_titled(p.title, p.lines()) for name, p in d.parts.items() if name != "examples"]
    blocks += [_titled("The brief's criteria", _criteria(found.checklist))]
    blocks += [_titled(d.examples.title, d.examples.lines())]
    return "\n\n".join(blocks)


def _titled(title: str, lines: list[str]) -> str:
    return "\n".join([title, "=" * len(title), *common.section(lines)])


def _criteria(found: Checklist) -> list[str]:
    count = found.count
    status_words = {c.status: c.status.replace(" measurable here", " measurable") for c in found.criteria}
    rows = [
        [c.criterion, c.document, c.required, c.measured or "-", status_words[c.status]]
        for c in found.criteria
    ]
    notes: dict[str, list[str]] = {}
    for c in found.criteria:
        if c.note:
            notes.setdefault(c.note, []).append(c.criterion)
    return [
        columns(["criterion", "document", "required", "measured", ""], rows),
        f"{count('met')} met, {count('not met')} not met ({found.reported} of these depend on the encoder), "
        f"{count('not measurable here')} not measurable.",
        *(f"{', '.join(dict.fromkeys(of))}: {note}." for note, of in notes.items()),
    ]


def diagnose_decoder(
    decoder: Annotated[str, flag("nearest (among training chunks), a decoder's folder, or vec2text:FOLDER.")],
    *,
    store: DecoderStore,
    run: RunFolder = None,
    flags: DecoderEvaluateFlags | None = None,
    encoder: EncoderFlags | None = None,
    device: common.Device = "cpu",
    strict: common.Strict = False,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Find where text -> vector -> model -> vector -> text breaks: the A/B/C/D test.

    The decoder gets four kinds of vectors of the same held-out chunks: A the encoder's, B those at unit
    length, C the run's raw output, D its unit output. Without a run, A and B. Does it need raw lengths (A
    against B), does it know what the model says (C against A), which output is to be sent (C against D)?

    The exit code is 0 whatever is found, or with --strict 1 when a verdict is RED.
    """
    with bench_of([decoder], store, run, flags, encoder, device, quiet=quiet) as (bench, [opened], evaluated):
        from nextvec.experiments.decoder_abcd import diagnose_decoder

        found = diagnose_decoder(bench, opened, evaluated)
    output(describe_table(found), found.to_json(), json)
    common.finish(found.verdicts(), strict=strict)
