"""`nextvec decoder evaluate`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from nextvec.cli.common import JsonTarget, Quiet, names, output
from nextvec.cli.texts import EncoderFlags, open_text_reader
from nextvec.cli.verdicts import WIDTH, Strict, finish, verdict_lines

if TYPE_CHECKING:
    from nextvec.decoding.base import Decoder
    from nextvec.diagnostics.engine import Section
    from nextvec.experiments.decoder_scores import DecodedChunk
    from nextvec.experiments.decoder_trial import DecoderSelection, HeldOutChunks
    from nextvec.experiments.evaluating import EvaluatedRun

JUDGING = Group("Judging")

RunFolder = Annotated[Path | None, Parameter(help="A run or an ensemble, whose predictions are decoded too.")]
DecoderStore = Annotated[Path, Parameter(help="The store that held-out chunks are taken from.")]
Device = Annotated[Literal["cpu", "cuda", "mps"], Parameter(help="Where the run predicts.")]


@Parameter(name="*", group=JUDGING)
@dataclass(frozen=True)
class DecoderEvaluateFlags:
    """Which chunks are decoded; shared by the verbs that judge decoders."""

    documents: Annotated[int, Parameter(help="How many held-out documents; one chunk of each.")] = 100
    splits: Annotated[
        str,
        Parameter(
            help="Splits that they are taken from, separated by commas: the next where the first has too "
            "few. A trained decoder was stopped early on validation."
        ),
    ] = "test"
    sources: Annotated[str | None, Parameter(help="Only these sources, separated by commas.")] = None
    split_file: Annotated[
        Path | None, Parameter(help="JSON of document ids (default: that of the run, or of the decoder).")
    ] = None
    context: Annotated[int, Parameter(help="Chunks that stand before each one, at least.")] = 5
    seed: Annotated[int, Parameter(help="Of the draw of chunks, and of the shuffled control.")] = 0
    decoder_option: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="KIND.KEY=VALUE, e.g. vec2text.steps=10, inverter.writing.beam=8."),
    ] = ()

    def exam(self) -> DecoderSelection:
        """As the judge takes it."""
        from nextvec.data.splits import SplitConfig
        from nextvec.experiments.decoder_trial import DecoderSelection

        division = None if self.split_file is None else SplitConfig(file=str(self.split_file.resolve()))
        return DecoderSelection(
            names(self.splits), self.documents, names(self.sources), division, self.context, self.seed
        )


@contextmanager
def bench_of(
    specs: Sequence[str],
    store: Path,
    run: Path | None,
    flags: DecoderEvaluateFlags | None,
    encoder: EncoderFlags | None,
    device: str,
    *,
    quiet: bool,
) -> Iterator[tuple[HeldOutChunks, list[Decoder], EvaluatedRun | None]]:
    """What the flags name, opened."""
    from nextvec.config import from_dict, parse_assignments
    from nextvec.corpus.reading import Space
    from nextvec.corpus.store import Store
    from nextvec.decoding.load import DecoderOptions, check_decoders
    from nextvec.experiments.decoder_trial import opened
    from nextvec.experiments.ensemble import open_evaluated

    flags = flags or DecoderEvaluateFlags()
    exam, given = flags.exam(), parse_assignments(flags.decoder_option)
    options = from_dict(DecoderOptions, given, where="--decoder-option")
    check_decoders(specs)
    held = Store.open(store)
    judged = None if run is None else open_evaluated(str(run), device)
    reader = open_text_reader(Space.of(held), encoder)
    with opened(specs, held, reader, exam, judged, options, quiet=quiet) as (bench, decoders):
        yield bench, decoders, judged


def decoder_evaluate(
    *decoders: Annotated[
        str, Parameter(help="nearest (among training chunks), folders of decoders, vec2text:FOLDER.")
    ],
    store: DecoderStore,
    run: RunFolder = None,
    flags: DecoderEvaluateFlags | None = None,
    encoder: EncoderFlags | None = None,
    device: Device = "cpu",
    examples: Annotated[int, Parameter(help="Print so many texts beside the truth.")] = 0,
    strict: Strict = False,
    json: JsonTarget = None,
    quiet: Quiet = False,
) -> None:
    """Judge decoders: the vectors of held-out chunks become texts, which are encoded again and compared.

    Every decoder has a control: its texts for the vectors of other documents. With a run, the texts before
    each chunk go the whole way: encoder, model, decoder, text. The exit code is 0 whatever is found, or with
    --strict 1 when a verdict is RED.
    """
    from nextvec.errors import ConfigError

    if not decoders:
        raise ConfigError("nothing to judge", where="nextvec decoder evaluate", remedy="name a decoder")
    with bench_of(decoders, store, run, flags, encoder, device, quiet=quiet) as (bench, found, judged):
        from nextvec.experiments.decoder_scores import evaluate_decoders

        report, shown = evaluate_decoders(bench, found, judged)
    output("\n\n".join([describe(report), *map(_show, shown[:examples])]), report.to_json(), json)
    finish(report.verdicts(), strict=strict)


def describe(found: Section) -> str:
    """The figures, then the verdicts."""
    return "\n".join([*map(_wrap, found.lines()), "", "Verdicts", *verdict_lines(found.verdicts())])


def _wrap(line: str) -> str:
    """Sentences at the width of the verdicts; tables as they are."""
    if not line.endswith("."):
        return line
    return textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False)


def _show(example: DecodedChunk) -> str:
    width = max(len(name) for name in ("truth", *example.texts))
    texts = [f"  {name:<{width}}  {' '.join(text.split())}" for name, text in example.texts.items()]
    return "\n".join([example.document, f"  {'truth':<{width}}  {' '.join(example.truth.split())}", *texts])
