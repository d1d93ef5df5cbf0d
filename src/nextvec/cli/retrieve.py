"""`nextvec retrieve`, and `nextvec index`: list, drop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from nextvec.cli import common
from nextvec.cli.common import flag, names, output
from nextvec.cli.text_flags import PRETRAINED, EncoderFlags, Run, TextFlags, open_text_reader, read_text
from nextvec.errors import ConfigError
from nextvec.text import columns, fill

if TYPE_CHECKING:
    from nextvec.corpus.reading import TextReader
    from nextvec.corpus.store import Store
    from nextvec.decoding.base import Passage
    from nextvec.inference.base import TrainedPredictor
    from nextvec.retrieval.context import Options, Reembed

ASKING, COMPARING = Group("Passages for a text"), Group("With --evaluate")


@Parameter(name="*", group=ASKING)
@dataclass(frozen=True)
class AskFlags:
    """How passages are found for a text."""

    strategy: Annotated[
        str | None,
        flag(
            "last, mean, predicted, ranked (of a model with options.ranking), blend, last-mean, "
            "text (needs --decoder), steered, query, last-query (need --query); with re-rankers "
            "behind it if wanted, as in predicted+document+mmr: "
            "document, recency, mmr, passage, refined. Default: ranked+passage where "
            "the model has it, else last-mean+passage, which asks no model; with --query query."
        ),
    ] = None
    query: Annotated[str | None, flag("A text to steer towards.")] = None
    nearest: Annotated[
        int | None, Parameter(name=("--nearest", "--k"), help="How many passages (default: 10).")
    ] = None
    index: Annotated[
        str | None,
        flag(
            "Where the store's vectors are searched: exact (default), faiss, faiss-hnsw[:FOLDER], "
            "pgvector:URI, pgvector-hnsw:URI, milvus:FILE.db, milvus:URI. What is not there yet is loaded."
        ),
    ] = None


@Parameter(name="*", group=COMPARING)
@dataclass(frozen=True)
class CompareFlags:
    strategies: Annotated[
        str | None, flag("Separated by commas (default: all that the run, --queries and --decoder allow).")
    ] = None
    split: Annotated[str, flag("train (in-sample), validation, test or all.")] = "test"
    split_file: common.SplitFile = None
    context: common.LeastContext = 5
    candidates: Annotated[Literal["split", "store"], flag(common.RANKED_AMONG)] = "split"
    queries: Annotated[bool, flag("Give a later chunk of the document as query.")] = False
    windows: Annotated[int | None, flag("So many windows at most, drawn evenly.")] = None
    seed: Annotated[int, flag("Of that draw and of the queries.")] = 0
    no_speed: common.NoSpeed = False


def retrieve(
    run: Run = PRETRAINED,
    *,
    store: common.StorePath,
    text: TextFlags | None = None,
    ask: AskFlags | None = None,
    evaluate: Annotated[bool, flag("Compare strategies on documents that the run never saw.")] = False,
    compare: CompareFlags | None = None,
    sources: Annotated[str | None, flag("Only passages of these, separated by commas.")] = None,
    horizon: Annotated[int | None, flag("How many chunks ahead (default: the run's nearest).")] = None,
    decoder: Annotated[
        str | None, flag("nearest, a decoder's folder or vec2text:FOLDER; for strategy text.")
    ] = None,
    set: Annotated[tuple[str, ...], flag("An option of the strategies, as KEY=VALUE: --set blend=0.5")] = (),
    encoder: EncoderFlags | None = None,
    device: common.Device = "cpu",
    json: common.JsonTarget = None,
    quiet: common.Quiet = False,
) -> None:
    """Find the passages of a store that come next after a text; or, with --evaluate, find out whether looking
    ahead helps: strategies on held-out documents, beside search by the last chunk and by the mean.

    Chunks are counted from 1 in what is printed, and from 0 in the JSON.
    """
    from nextvec.config import from_dict, parse_assignments
    from nextvec.corpus.store import Store
    from nextvec.inference.predictor import open_predictor
    from nextvec.retrieval.context import Options

    ask, compare = ask or AskFlags(), compare or CompareFlags()
    _check_use(evaluate, text or TextFlags(), ask, compare)
    options = from_dict(Options, parse_assignments(set), where="--set")
    read = None if evaluate else read_text(text, run)
    opened = Store.open(store)
    predictor = open_predictor(run, device)
    predictor = predictor.at_horizon(predictor.horizons[0] if horizon is None else horizon)
    task = _Task(opened, predictor, options, encoder, decoder, sources)
    output(*(task.passages(*read, ask) if read else task.comparison(compare, quiet)), json)


def _check_use(evaluate: bool, text: TextFlags, ask: AskFlags, compare: CompareFlags) -> None:
    """Flags of the other use would do nothing."""
    if evaluate and (text, ask) != (TextFlags(), AskFlags()):
        message = "with --evaluate the texts are the store's own and strategies are named by --strategies"
        remedy = f"leave out the flags of '{ASKING.name}' and --text, --file"
        raise ConfigError(message, where="--evaluate", remedy=remedy)
    if not evaluate and compare != CompareFlags():
        message = "flags of a comparison without one"
        raise ConfigError(message, where="nextvec retrieve", remedy="add --evaluate")


@dataclass(frozen=True)
class _Task:
    store: Store
    run: TrainedPredictor
    options: Options
    encoder: EncoderFlags | None
    decoder: str | None
    sources: str | None

    def passages(self, text: str, where: str, ask: AskFlags) -> tuple[str, dict[str, Any]]:
        """The passages for a text, to print and as JSON."""
        from nextvec.data.splits import SplitConfig, split_documents
        from nextvec.decoding.nearest import Library
        from nextvec.evaluation.harness import check_made_for
        from nextvec.retrieval.backends import open_index
        from nextvec.retrieval.context import Reading, RetrievalContext
        from nextvec.retrieval.strategies import Strategy

        check_made_for(self.run, self.store)
        steered = ask.query is not None
        strategy = Strategy.named(ask.strategy) if ask.strategy else Strategy.default(self.run, steered)
        if ask.query is not None and "query" not in strategy.needs:
            remedy = "leave it out, or take the strategy query"
            raise ConfigError(f"strategy '{strategy.name}' takes no query", where="--query", remedy=remedy)
        documents = None
        if self.sources is not None:
            all_of = split_documents(self.store, SplitConfig(near_duplicate=1.0), names(self.sources))
            documents = all_of.of("all")
        library = Library(self.store, open_index(ask.index or "exact", self.store, documents))
        with self._reembedding() as (reader, reembed):
            reader = reader or open_text_reader(self.run.space, self.encoder)
            chunks, vectors = reader.read(text, where)
            if ask.query is not None and not ask.query.strip():
                remedy = "give a few words, or leave it out"
                raise ConfigError("no text in it", where="--query", remedy=remedy)
            query = None if ask.query is None else reader.encode([ask.query])
            reading = Reading.of_text(vectors, library.index, query)
            context = RetrievalContext(self.run, self.store, library.index, self.options, reembed)
            found = strategy.find(context, reading, 10 if ask.nearest is None else ask.nearest)
        pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
        passages = [library.passage(row, score) for row, score in pairs]
        known = reading.read[0].tolist()
        figures: dict[str, Any] = {"run": str(self.run.folder), "store": str(self.store.path)}
        figures |= {"strategy": strategy.name, "index": library.index.name, "query": ask.query}
        figures |= {"read": len(chunks), "left_out": known, "passages": [p.to_json() for p in passages]}
        how = strategy.name
        if strategy.control is None and ask.strategy is None:
            how += ", which asks no model (--strategy predicted does)"
        return describe_passages(passages, how, len(chunks), len(known)), figures

    def comparison(self, flags: CompareFlags, quiet: bool) -> tuple[str, dict[str, Any]]:
        """The comparison of strategies, to print and as JSON."""
        from nextvec.evaluation.harness import EvaluationConfig
        from nextvec.experiments.lookahead import compare_strategies

        how = EvaluationConfig(
            context=flags.context,
            horizon=self.run.horizons[self.run.head],
            queries=flags.queries,
            candidates=flags.candidates,
            seed=flags.seed,
            speed=not flags.no_speed,
            quiet=quiet,
        )
        with self._reembedding() as (_, reembed):
            found = compare_strategies(
                self.store,
                self.run,
                common.selection(flags.split, self.sources, flags.split_file),
                how,
                names(flags.strategies),
                options=self.options,
                reembed=reembed,
                most=flags.windows,
            ).to_json()
        return describe_comparison(found), found

    @contextmanager
    def _reembedding(self) -> Iterator[tuple[TextReader | None, Reembed | None]]:
        """With a decoder: the reader of its texts, and what decodes and encodes again."""
        if self.decoder is None:
            yield None, None
            return
        from nextvec.decoding.load import open_decoder

        reader = open_text_reader(self.run.space, self.encoder)
        with open_decoder(self.decoder, store=self.store, reader=reader) as decoder:
            yield reader, lambda raw: reader.encode(decoder.text(raw))


def describe_passages(passages: list[Passage], strategy: str, read: int, left_out: int) -> str:
    """Rank, score, document and place of each, its text below."""
    from nextvec.cli.predict import wrapped

    head = f"{len(passages)} passages by {strategy}, after {read} {'chunk' if read == 1 else 'chunks'}"
    known = f"; {left_out} chunks of the store left out, because they were read" if left_out else ""
    lines = [f"{head}{known}."]
    for rank, passage in enumerate(passages, 1):
        assert passage.position is not None
        place = f"{passage.title or passage.document}, chunk {passage.position + 1}"
        lines += [f"{rank:>3}  {passage.decoded.score:.3f}  {place}", *wrapped(passage.decoded.text)]
    return "\n".join(lines)


METRICS = {"recall@1": "R@1", "recall@5": "R@5", "recall@10": "R@10", "recall@20": "R@20", "mrr": "MRR"}
LEGEND = (
    "Differences of MRR, with 95 % intervals over documents; * the interval leaves out 0. A control does as "
    "much without the model: last for predicted, last-mean for ranked and blend, last-query for query, "
    "passage for refined. The next chunk stands right behind the reader: document and recency know more than "
    "any query."
)


def describe_comparison(found: Mapping[str, Any]) -> str:
    """Heading, the table of strategies, where they gain and lose, and the verdicts in words."""
    blocks = [_heading(found), _table(found), fill(LEGEND)]
    blocks += ["\n\n".join(_where(factor) for factor in found["where"] if len(factor["groups"]) > 1)]
    blocks += ["\n".join(fill(line, rest="  ") for line in found["verdicts"])]
    return "\n\n".join(block for block in blocks if block)


def _heading(found: Mapping[str, Any]) -> str:
    sample = " (in-sample)" if found["split"] == "train" else ""
    given, wording = found["queries"], ""
    if given is not None:
        wording = f", a later chunk given as query in {given:,} windows"
    dropped = f"; {found['dropped']:,} windows dropped that stand in training" if found["dropped"] else ""
    chance = ", ".join(f"{METRICS[name]} {value:.4f}" for name, value in found["chance"].items())
    return fill(
        f"Split {found['split']}{sample} of {found['encoder']} vectors: {found['windows']:,} windows of "
        f"{found['documents']:,} documents{wording}, context {found['context']}, "
        f"horizon {found['horizon']}{dropped}. "
        f"Candidates: {found['pool']:,} chunks of the {found['candidates']}, without what was read "
        f"({found['eligible']:,.0f} on average). Chance: {chance}."
    )


def _table(found: Mapping[str, Any]) -> str:
    rows = found["strategies"]
    others = [name for name in ("last", "mean") if any(name in row["versus"] for row in rows)]
    controlled = any(row["control"] in row["versus"] for row in rows)
    timed = any(row["latency_p50_ms"] is not None for row in rows)
    header = ["strategy", *METRICS.values(), *(["p50 ms"] if timed else [])]
    header += [f"MRR less {name}'s" for name in others] + (["MRR less control's"] if controlled else [])
    body = []
    for row in rows:
        cells = [row["name"], *(f"{row[metric]:.4f}" for metric in METRICS)]
        cells += [f"{row['latency_p50_ms']:.1f}"] if timed else []
        cells += [_gain(row["versus"].get(name)) for name in others]
        cells += [_gain(row["versus"].get(row["control"]))] if controlled else []
        body.append(cells)
    return columns(header, body)


def _where(factor: Mapping[str, Any]) -> str:
    others = list(factor["groups"][0]["gains"])
    body = [
        [
            *(group["name"], f"{group['windows']:,}", f"{group['documents']:,}", f"{group['last']:.4f}"),
            *(_interval(group["gains"][name]) for name in others),
        ]
        for group in factor["groups"]
    ]
    head = [factor["name"], "windows", "documents", "MRR of last", *(f"{n} less last" for n in others)]
    return columns(head, body)


def _gain(gains: Mapping[str, Any] | None) -> str:
    return "" if gains is None else _interval(gains["mrr"])


def _interval(gain: Mapping[str, Any]) -> str:
    if gain["low"] is None:
        return f"{gain['value']:+.4f}"
    clear = "*" if gain["low"] > 0 or gain["high"] < 0 else " "
    return f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]{clear}"


# What searches hold in a database or a cluster.

VERBS = {
    "list": "What searches hold in a database or a cluster.",
    "drop": "Drop some of it; the next search of its store loads it again.",
}

index = App(name="index", help="Tables and collections that searches have made.", help_format="plaintext")
for name, summary in VERBS.items():
    index.command(f"nextvec.cli.retrieve:index_{name}", name=name, help=summary)

Place = Annotated[str, flag("pgvector:postgresql://USER@HOST/DATABASE, or milvus:FILE.db or URL.")]


def index_list(place: Place, *, json: common.JsonTarget = None) -> None:
    """The tables, or collections, that `nextvec retrieve --index` and `nextvec serve --index` have made."""
    from nextvec.retrieval.backends import held_rows

    found = held_rows(place)
    table = columns(["name", "rows", "holds"], [[held.name, f"{held.rows:,}", held.about] for held in found])
    output(table if found else "no index holds anything there", [asdict(held) for held in found], json)


def index_drop(place: Place, *names: Annotated[str, flag("As nextvec index list prints them.")]) -> None:
    """Drop tables, or collections, that no store uses any more; no other names are taken."""
    from nextvec.retrieval.backends import drop_rows

    if not names:
        raise ConfigError("no name is given", where="nextvec index drop", remedy="see nextvec index list")
    for name in names:
        drop_rows(place, name)
        print(f"dropped {name}")
