"""`nextvec surprise`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from nextvec.cli import text_flags
from nextvec.cli.common import Device, JsonTarget, Quiet, SplitFile, flag, names, output, selection
from nextvec.cli.text_flags import TEXT
from nextvec.errors import ConfigError
from nextvec.text import columns, fill, shorten

if TYPE_CHECKING:
    from nextvec.experiments.segmentation import FinderRow, SegmentationReport
    from nextvec.experiments.surprise import FittedFinder, Surprises
    from nextvec.inference.base import TrainedPredictor

BOUNDARIES, EVALUATION = Group("Boundaries"), Group("Evaluation")
EXCERPT = 90
Finder = Literal["surprise", "surprise-depth", "surprise-ahead", "cosine-drop", "cosine-gap"]


@Parameter(name="*", group=BOUNDARIES)
@dataclass(frozen=True)
class ShowFlags:
    finder: Annotated[
        Finder | None,
        flag(
            "What topic boundaries are read off: surprise (of the next chunk), surprise-depth (above "
            "the valleys beside it), surprise-ahead (of the mean of the next chunks), or without the run "
            "cosine-drop (TextTiling) and cosine-gap (how unlike the blocks on either side are). Default: "
            "what --fit chose for the run, else cosine-gap."
        ),
    ] = None
    threshold: Annotated[float | None, flag("Deviations above the curve's mean that make a boundary.")] = None
    peaks: Annotated[
        int, flag("So many of the most surprising chunks.", validator=validators.Number(gte=0))
    ] = 5
    figure: Annotated[Path | None, flag("Also draw the curve to this .svg or .png (nextvec[figures]).")] = (
        None
    )


@Parameter(name="*", group=EVALUATION)
@dataclass(frozen=True)
class EvaluationFlags:
    documents: Annotated[int, flag("So many documents are joined.", validator=validators.Number(gte=1))] = 200
    seed: Annotated[int, flag("Of joining and resampling.", validator=validators.Number(gte=0))] = 0
    split: Annotated[str, flag("test, or train (labelled in-sample).")] = "test"
    sources: Annotated[str | None, flag("Join documents of these only.")] = None
    split_file: SplitFile = None
    segment_chunks: Annotated[
        str | None, flag("Fewest and most chunks of a joined segment (default: 5-20; with --fit 3-20).")
    ] = None
    baselines: Annotated[
        str | None, flag("Whose surprise stands beside the run's (default: copy-last,exponential averages).")
    ] = None
    quiet: Quiet = False


def surprise(
    run: text_flags.Run = text_flags.PRETRAINED,
    file: text_flags.TextFile = None,
    *,
    text: Annotated[str | None, flag("The text itself.", group=TEXT)] = None,
    store: Annotated[Path | None, flag("A store: with --document or --evaluate.", group=TEXT)] = None,
    document: Annotated[str | None, flag("Id of a document of --store.", group=TEXT)] = None,
    show: ShowFlags | None = None,
    encoder: text_flags.EncoderFlags | None = None,
    evaluate: Annotated[
        bool,
        flag(
            "Join held-out documents of --store at known places, and evaluate who finds these.",
            group=EVALUATION,
        ),
    ] = False,
    fit: Annotated[
        bool,
        flag(
            "Join validation documents of --store, choose the finder and its rule that find the places "
            "best, and keep them in the run's folder, as its default.",
            group=EVALUATION,
        ),
    ] = False,
    evaluation: EvaluationFlags | None = None,
    device: Device = "cpu",
    json: JsonTarget = None,
) -> None:
    """How unexpected each chunk of a text is (1 - cosine of the prediction and what came), drawn as a curve,
    with the texts at its peaks and the places where topics change.

    The text is a file, --text, or a document of a store. With --evaluate: how well surprise finds the
    places where documents were joined, by Pk and WindowDiff, beside TextTiling, other baselines and chance.
    """
    given = text_flags.TextFlags(text, file)
    if evaluate or fit:
        by = "--evaluate" if evaluate else "--fit"
        unused = {"a text": given != text_flags.TextFlags(), "--document": document is not None}
        _refuse({**unused, "how it is shown": show is not None, "an encoder": encoder is not None}, by)
        _refuse({"--fit": evaluate and fit})
        if fit and run == text_flags.PRETRAINED and not run.exists():
            remedy = "train one that starts from it: nextvec train --init-from pretrained"
            raise ConfigError("the model of the package keeps no finder", where="--fit", remedy=remedy)
        joined = _evaluate if evaluate else _fit
        joined(run, _needed(store, by), evaluation or EvaluationFlags(), device, json)
        return
    if evaluation is not None:
        remedy = "add --evaluate or --fit"
        raise ConfigError("of documents that are not joined", where="flags of evaluation", remedy=remedy)
    show = show or ShowFlags()
    if show.figure is not None:
        from nextvec.reporting.drawing import require_figure

        require_figure(show.figure)
    found = _read(run, given, store, document, encoder, show, device)
    if show.figure is not None:
        from nextvec.reporting.drawing import draw_surprise

        draw_surprise(found, show.figure, show.peaks)
    output(describe(found, show.peaks), found.to_json(show.peaks), json)


def _read(
    run: Path,
    given: text_flags.TextFlags,
    store: Path | None,
    document: str | None,
    encoder: text_flags.EncoderFlags | None,
    show: ShowFlags,
    device: str,
) -> Surprises:
    from nextvec.corpus.store import Store
    from nextvec.experiments.surprise import chosen, surprises_of_document, surprises_of_text

    finder = show.finder, show.threshold
    if document is not None:
        _refuse({"a text": given != text_flags.TextFlags(), "an encoder": encoder is not None}, "--document")
        opened, predictor = Store.open(_needed(store, "--document")), _predictor(run, device)
        return surprises_of_document(predictor, opened, document, *chosen(predictor, *finder))
    if store is not None:
        raise ConfigError("a store alone", where="--store", remedy="add --document ID, or --evaluate")
    read, where = text_flags.read_text(given, run)
    predictor = _predictor(run, device)
    reader = text_flags.open_text_reader(predictor.space, encoder)
    return surprises_of_text(predictor, reader, read, where, *chosen(predictor, *finder))


def _evaluate(run: Path, store: Path, flags: EvaluationFlags, device: str, json: str | None) -> None:
    from nextvec.corpus.store import Store
    from nextvec.experiments.segmentation import CHUNKS, PREDICTORS, evaluate_segmentation

    report = evaluate_segmentation(
        Store.open(store),
        _predictor(run, device),
        **_joined(flags, CHUNKS),
        baselines=names(flags.baselines) or PREDICTORS,
        quiet=flags.quiet,
    )
    output(describe_table(report), report.to_json(), json)


def _fit(run: Path, store: Path, flags: EvaluationFlags, device: str, json: str | None) -> None:
    from nextvec.corpus.store import Store
    from nextvec.experiments.boundary_fit import SEGMENT_CHUNKS, check_kept, fit_finder, keep

    _refuse({"--split": flags.split != "test", "--baselines": flags.baselines is not None}, "--fit")
    predictor = _predictor(run, device)
    check_kept(predictor)
    fitted = fit_finder(Store.open(store), predictor, **_joined(flags, SEGMENT_CHUNKS))
    output(describe_fit(fitted, keep(fitted, predictor)), fitted.to_json(), json)


def _joined(flags: EvaluationFlags, usual: tuple[int, int]) -> dict[str, Any]:
    """Which documents are joined, and how. Raises ConfigError."""
    if flags.segment_chunks is not None:
        least, _, most = flags.segment_chunks.partition("-")
        if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
            message = f"'{flags.segment_chunks}' is not a range"
            raise ConfigError(message, where="--segment-chunks", remedy="write 3-11")
        usual = int(least), int(most)
    chosen = selection(flags.split, flags.sources, flags.split_file)
    return {"selection": chosen, "count": flags.documents, "seed": flags.seed, "segment_chunks": usual}


def _predictor(run: Path, device: str) -> TrainedPredictor:
    from nextvec.experiments.surprise import next_predictor
    from nextvec.inference.predictor import open_predictor

    return next_predictor(open_predictor(run, device))


def _needed(store: Path | None, by: str) -> Path:
    if store is None:
        raise ConfigError("no store given", where=by, remedy="add --store STORE")
    return store


def _refuse(given: dict[str, bool], beside: str = "--evaluate") -> None:
    for what, there in given.items():
        if there:
            raise ConfigError(f"{what} is of no use beside it", where=beside, remedy="leave one out")


def describe(found: Surprises, peaks: int) -> str:
    """The curve, the chunks at its peaks, the segments."""

    def text(chunk: int) -> str:
        return shorten(found.texts[chunk], EXCERPT, middle=True)

    spans, high = found.segments(), found.peaks(peaks)
    curve = draw_curve(found.surprise.tolist(), [first for first, _ in spans[1:]], *terminal())
    mean = float(found.surprise.mean())
    head = (
        f"{found.run} read {len(found.texts)} chunks of {found.where}. Surprise is 1 - cosine of what was "
        f"expected and what came: {mean:.3f} on average, {found.surprise.max():.3f} at most."
    )
    blocks = [fill(head), "\n".join(curve)]
    if len(high):
        lines = [f"  {i + 1:>5}  {found.surprise[i - 1]:.3f}  {text(i)}" for i in high]
        blocks.append("\n".join(["Most surprising chunks", *lines]))
    segments = [f"  {a + 1:>5} - {b + 1:<5}  {text(a)}" for a, b in spans]
    rule = f"{found.finder}, peaks {found.rule.threshold:g} deviations above its mean"
    title = f"Segments by {rule}" if len(segments) > 1 else f"One segment by {rule}"
    return "\n\n".join([*blocks, "\n".join([title, *segments])])


def describe_fit(fitted: FittedFinder, file: Path) -> str:
    """Every finder's Pk, and which is the run's from now on."""
    least, most = fitted.segment_chunks
    head = (
        f"{fitted.documents} documents joined from segments of {least} to {most} chunks of validation "
        f"documents of {fitted.store}, on which no rule was fitted (0 is perfect)."
    )
    rows = sorted(fitted.pk.items(), key=lambda pair: pair[1])
    table = columns(["finder", "Pk"], [[name, f"{pk:.4f}"] for name, pk in rows])
    rule = f"threshold {fitted.threshold:g}, {fitted.apart} chunks apart, blocks of {fitted.width}"
    kept = f"{fitted.finder} ({rule}) is the run's default now: {file}"
    return "\n".join([fill(head), "", table, "", fill(kept)])


def describe_table(report: SegmentationReport) -> str:
    """What was evaluated, one row a finder, the verdict."""
    sample = " (in-sample)" if report.split == "train" else ""
    of = f" of {', '.join(report.sources)}" if report.sources else ""
    head = (
        f"{report.documents} documents joined from segments of {report.origins} documents{of}, split "
        f"{report.split}{sample} of {report.store}: {report.chunks:,} chunks, {report.boundaries:,} "
        f"boundaries, a chunk used {report.used:.1f} times. Pk and WindowDiff over pairs {report.k} chunks "
        "apart (0 is perfect), F1 within one chunk; rules fitted on joined validation documents."
    )
    gap = "Pk less the best baseline's"
    header = ["finder", "Pk", "WindowDiff", "F1", "found", gap, "on validation", "rule"]
    table = columns(header, [_cells(row) for row in report.rows])
    legend = (
        "* best baseline by Pk; + better and - worse than it: 95 % of 1,000 resamples of the documents "
        "agree. found: boundaries for one there is. rule: threshold / chunks apart / chunks in a block."
    )
    return "\n".join([fill(head), "", table, "", fill(legend), *report.verdicts()])


def _cells(row: FinderRow) -> list[str]:
    gap, rule = row.versus.get("pk"), row.rule
    mark = "*" if gap is None else " " if not gap.excludes_zero else "+" if gap.value < 0 else "-"
    interval = "" if gap is None else gap.signed()
    return [
        row.name,
        f"{row.pk:.4f}{mark}",
        f"{row.window_diff:.4f}",
        f"{row.f1:.3f}",
        f"{row.boundary_ratio:.2f}",
        interval,
        "" if row.validation_pk is None else f"{row.validation_pk:.4f}",
        "" if rule is None else f"{rule.threshold:g} / {rule.apart} / {rule.width}",
    ]


# A curve drawn with the characters of a terminal.

HEIGHT = 8
BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = "  ...::##"
LABEL = 7
WIDEST = 3
GAP = 8


def terminal() -> tuple[int, str]:
    """How many characters a line has (100 where that is not known), and what bars are drawn with."""
    width = shutil.get_terminal_size((100, 24)).columns
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return width, PLAIN
    return width, BLOCKS


def draw_curve(values: Sequence[float], starts: Sequence[int], width: int, bars: str = BLOCKS) -> list[str]:
    """Lines at most `width` long, from 0 to 1 or the highest value: a column a chunk, or the highest of
    several where there is no room.

    Args:
        values: 0 or more, of chunk 1, 2, ...; chunk 0 has none and stays blank.
        starts: chunks that a new topic begins with, marked below the curve.
        bars: nine characters, from an empty place to a full one.
    """
    count, room = len(values) + 1, max(width - LABEL, 10)
    per = -(-count // room)
    columns = -(-count // per)
    wide = max(1, min(WIDEST, room // columns))
    top = max(1.0, *values)
    held = (values[max(column * per - 1, 0) : (column + 1) * per - 1] for column in range(columns))
    heights = [round(8 * HEIGHT * max(some, default=0.0) / top) for some in held]  # in eighths of a line
    lines = []
    for row in reversed(range(HEIGHT)):
        label = {HEIGHT - 1: f"{top:.2f}", HEIGHT // 2 - 1: f"{top / 2:.2f}"}.get(row, "")
        body = "".join(bars[max(0, min(8, height - 8 * row))] * wide for height in heights)
        lines.append(f"{label:>{LABEL - 1}} {body}".rstrip())
    marks = [" "] * columns * wide
    for start in starts:
        marks[start // per * wide] = "^"
    lines.append(f"{'topics':>{LABEL - 1}} {''.join(marks)}".rstrip())
    lines.append(f"{'chunk':>{LABEL - 1}} {_numbers(columns, per, wide)}".rstrip())
    return lines


def _numbers(columns: int, per: int, wide: int) -> str:
    """Numbers of chunks, from 1, below the columns that begin with them."""
    line = ""
    for column in range(columns):
        number, place = str(column * per + 1), column * wide
        if place >= len(line) + (GAP if line else 0) and place + len(number) <= columns * wide:
            line = line.ljust(place) + number
    return line
