"""`nextvec decoder`: train, evaluate, setup."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from nextvec.cli import common
from nextvec.cli.common import flag, names, output
from nextvec.cli.text_flags import EncoderFlags, open_text_reader
from nextvec.config import from_dict, given, merge, parse_assignments, read_toml
from nextvec.errors import ConfigError

if TYPE_CHECKING:
    from nextvec.decoding.base import Decoder
    from nextvec.decoding.vec2text.setup import PartSources
    from nextvec.diagnostics.sections import Section
    from nextvec.experiments.decoder_scores import DecodedChunk
    from nextvec.experiments.decoder_trial import HeldOutChunks
    from nextvec.experiments.evaluating import EvaluatedRun

VERBS = {
    "train": "Train a text decoder on a store's own vectors and texts.",
    "evaluate": "Evaluate decoders on held-out documents, beside controls.",
    "setup": "Make the environment that vec2text runs in.",
}

decoder = App(name="decoder", help="Decoders from vectors to text.", help_format="plaintext")
for name, summary in VERBS.items():
    decoder.command(f"nextvec.cli.decoder:decoder_{name}", name=name, help=summary)


@Parameter(name="*")
@dataclass(frozen=True)
class DecoderTrainFlags:
    """What is not given is left to the file, then to the defaults."""

    config: Annotated[Path | None, flag("A TOML file; flags win over it.")] = None
    tokens: Annotated[Literal["bpe", "bytes"] | None, flag("How text is cut: byte pairs, or bytes.")] = None
    epochs: Annotated[int | None, flag("Passes over the training chunks.")] = None
    max_updates: Annotated[int | None, flag("Stop after so many updates.")] = None
    seconds: Annotated[float | None, flag("Stop after so many seconds of training.")] = None
    lr: Annotated[float | None, flag("Highest learning rate.")] = None
    sources: common.Sources = None
    split_file: common.NewSplitFile = None
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"] | None, flag("Where to train.")] = None
    seed: Annotated[int | None, flag("Of the weights, the batches and the dropout.")] = None
    set: Annotated[tuple[str, ...], flag("Any other key, as KEY=VALUE: --set network.layers=6")] = ()

    def layers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration file and the flags, as nested dictionaries. Raises ConfigError."""
        most = {"epochs": self.epochs, "max_updates": self.max_updates, "max_seconds": self.seconds}
        split = {"file": None if self.split_file is None else str(self.split_file.resolve())}
        flags = {
            "tokens": {"kind": self.tokens},
            "optim": {**most, "lr": self.lr},
            "data": {"sources": list(names(self.sources)) or None, "split": split},
            "runtime": {"device": self.device, "seed": self.seed},
        }
        file = read_toml(self.config) if self.config is not None else {}
        return file, merge(given(flags), parse_assignments(self.set))


def decoder_train(
    store: common.StorePath,
    *,
    out: Annotated[Path, flag("Folder of the decoder.")],
    flags: DecoderTrainFlags | None = None,
    resume: Annotated[bool, flag("Go on with the training in --out.")] = False,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Train a text decoder on a store's own pairs of vector and text.

    It learns from the training documents; the best epoch on the validation documents is kept. It takes raw
    vectors of the store's encoder and writes text that stood nowhere.
    """
    from nextvec.corpus.store import Store
    from nextvec.decoding.inverter import InverterConfig, train_inverter

    flags = flags or DecoderTrainFlags()
    file, set_here = flags.layers()
    config = None
    if file or set_here or not resume:
        config = from_dict(InverterConfig, merge(file, set_here), where=flags.config or "flags")
    result = train_inverter(Store.open(store), config, out, resume=resume, quiet=quiet)
    text = (
        f"inverter: validation loss {result.loss:.4f} nats a token ({result.loss_shuffled:.4f} with the "
        f"vectors of other chunks) in epoch {result.epoch} of {result.epochs} ({result.stopped})\n"
        f"{result.parameters:,} parameters, {result.updates:,} updates, {result.tokens:,} tokens, "
        f"{result.tokens / max(result.seconds, 1e-9):,.0f} tokens/s, {result.seconds:.0f} s\n"
        f"decoder: {result.folder}\n"
        f"evaluate it: nextvec decoder evaluate {result.folder} --store {store}"
    )
    output(text, vars(result), json)


def decoder_setup(
    kind: Annotated[Literal["vec2text"], flag("The decoder: vec2text.")],
    *,
    folder: Annotated[
        Path | None,
        flag(
            "Where its packages go; by default $NEXTVEC_VEC2TEXT, else share/nextvec/vec2text of the "
            "virtual environment, else of the user's data."
        ),
    ] = None,
    check: Annotated[bool, flag("Only check whether it runs.")] = False,
    out: Annotated[
        Path | None, flag("Also put a decoder together in this new folder, for vec2text:FOLDER.")
    ] = None,
    inversion: Annotated[
        str | None, flag("Model of the first hypothesis: folder or hub name [jxm/gtr__nq__32].")
    ] = None,
    corrector: Annotated[
        str | None, flag("Corrector: folder or hub name [jxm/gtr__nq__32__correct].")
    ] = None,
    embedder: Annotated[
        str | None, flag("The T5 encoder: folder or hub name [sentence-transformers/gtr-t5-base].")
    ] = None,
    base: Annotated[
        str | None,
        flag("Configuration and tokenizer of the models' T5: folder or hub name [google-t5/t5-base]."),
    ] = None,
    quiet: common.Quiet = False,
    json: common.JsonTarget = None,
) -> None:
    """Make the environment that vec2text runs in, and put its decoder together.

    Its packages are pinned and apart from nextvec's own; torch is shared. Run again, it changes nothing.
    """
    from nextvec.decoding.vec2text.setup import Environment, PartSources, make
    from nextvec.decoding.vec2text.setup import check as check_parts

    named = given({"inversion": inversion, "corrector": corrector, "embedder": embedder, "base": base})
    if check and out is not None:
        raise ConfigError("--check makes nothing", where="--out", remedy="leave one of them out")
    if named and out is None:
        where = f"--{next(iter(named))}"
        raise ConfigError("parts, but no decoder to make of them", where=where, remedy="add --out")
    if out is not None:
        check_parts(out, PartSources(**named))
    started = time.monotonic()
    if check:
        environment = Environment.find(folder)
        versions = environment.probe()
    else:
        environment, versions = make(folder, quiet=quiet)
    seconds = round(time.monotonic() - started, 1)
    figures = {"folder": str(environment.folder), "versions": versions, "bytes": environment.size()}
    figures["seconds"] = seconds
    if out is not None:
        figures["decoder"] = _put_together(out, PartSources(**named), environment.folder)
    output(_words(figures), figures, json)


def _put_together(out: Path, sources: PartSources, environment: Path) -> dict[str, Any]:
    from nextvec.decoding.vec2text import Vec2Text
    from nextvec.decoding.vec2text.setup import prepare

    def load(folder: Path) -> None:
        with Vec2Text(folder, environment=environment) as decoder:
            decoder.start()

    made = prepare(out, sources, load)
    return {"folder": str(made.folder), "encoder": made.encoder, "dimension": made.dimension}


def _words(figures: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines = [
        f"vec2text runs: {versions}",
        f"packages in {figures['folder']} ({figures['bytes'] / 2**20:.0f} MiB, {figures['seconds']:.0f} s)",
    ]
    if "decoder" in figures:
        made = figures["decoder"]
        lines += [
            f"decoder in {made['folder']}, for vectors of {made['encoder']['name']}, "
            f"fingerprint {made['encoder']['fingerprint'][:16]}",
            f"its vectors: nextvec ingest TEXTS --encoder {made['folder']}/embedder --out STORE",
        ]
    return "\n".join(lines)


EVALUATION = Group("Evaluation")

RunFolder = Annotated[Path | None, flag("A run or an ensemble, whose predictions are decoded too.")]
DecoderStore = Annotated[Path, flag("The store that held-out chunks are taken from.")]


@Parameter(name="*", group=EVALUATION)
@dataclass(frozen=True)
class DecoderEvaluateFlags:
    """Which chunks are decoded; shared by the verbs that evaluate decoders."""

    documents: Annotated[int, flag("How many held-out documents; one chunk of each.")] = 100
    splits: Annotated[
        str,
        flag(
            "Splits that they are taken from, separated by commas: the next where the first has too "
            "few. A trained decoder was stopped early on validation."
        ),
    ] = "test"
    sources: common.Sources = None
    split_file: Annotated[
        Path | None, flag("JSON of document ids (default: that of the run, or of the decoder).")
    ] = None
    context: Annotated[int, flag("Chunks that stand before each one, at least.")] = 5
    seed: Annotated[int, flag("Of the draw of chunks, and of the shuffled control.")] = 0
    decoder_option: Annotated[
        tuple[str, ...], flag("KIND.KEY=VALUE, e.g. vec2text.steps=10, inverter.writing.beam=8.")
    ] = ()


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
    from nextvec.corpus.reading import Space
    from nextvec.corpus.store import Store
    from nextvec.decoding.load import DecoderOptions, check_decoders
    from nextvec.experiments.decoder_trial import DecoderSelection, opened
    from nextvec.experiments.mixing import open_evaluated

    flags = flags or DecoderEvaluateFlags()
    which = (names(flags.splits), flags.documents, names(flags.sources))
    selection = DecoderSelection(*which, common.division(flags.split_file), flags.context, flags.seed)
    options = from_dict(DecoderOptions, parse_assignments(flags.decoder_option), where="--decoder-option")
    check_decoders(specs)
    held = Store.open(store)
    evaluated = None if run is None else open_evaluated(str(run), device)
    reader = open_text_reader(Space.of(held), encoder)
    with opened(specs, held, reader, selection, evaluated, options, quiet=quiet) as (bench, decoders):
        yield bench, decoders, evaluated


def decoder_evaluate(
    *decoders: Annotated[str, flag("nearest (among training chunks), folders of decoders, vec2text:FOLDER.")],
    store: DecoderStore,
    run: RunFolder = None,
    flags: DecoderEvaluateFlags | None = None,
    encoder: EncoderFlags | None = None,
    device: common.Device = "cpu",
    examples: Annotated[int, flag("Print so many texts beside the truth.")] = 0,
    strict: common.Strict = False,
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Evaluate decoders: the vectors of held-out chunks become texts, which are encoded again and compared.

    Every decoder has a control: its texts for the vectors of other documents. With a run, the texts before
    each chunk go the whole way: encoder, model, decoder, text. The exit code is 0 whatever is found, or with
    --strict 1 when a verdict is RED.
    """
    if not decoders:
        raise ConfigError("nothing to evaluate", where="nextvec decoder evaluate", remedy="name a decoder")
    with bench_of(decoders, store, run, flags, encoder, device, quiet=quiet) as (bench, found, evaluated):
        from nextvec.experiments.decoder_scores import evaluate_decoders

        report, shown = evaluate_decoders(bench, found, evaluated)
    output("\n\n".join([describe_table(report), *map(_show, shown[:examples])]), report.to_json(), json)
    common.finish(report.verdicts(), strict=strict)


def describe_table(found: Section) -> str:
    return "\n".join(
        [*common.section(found.lines()), "", "Verdicts", *common.verdict_lines(found.verdicts())]
    )


def _show(example: DecodedChunk) -> str:
    width = max(len(name) for name in ("truth", *example.texts))
    texts = [f"  {name:<{width}}  {' '.join(text.split())}" for name, text in example.texts.items()]
    return "\n".join([example.document, f"  {'truth':<{width}}  {' '.join(example.truth.split())}", *texts])
