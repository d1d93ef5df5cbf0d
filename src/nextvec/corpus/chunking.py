r"""Documents -> chunks, the steps of the sequence that models read.

Every chunker works the same way: the text is cut into paragraphs (at blank lines), these into sentences
(`sentencex`, and at list items), sentences too long for a chunk into even pieces at word boundaries; then
sentences are grouped. A chunk never crosses a document, keeps its offsets, and gives the text back:

    "".join(c.gap + c.text for c in chunks) == text        text[c.start:c.end] == c.text

for every text without white space at its end (what `normalise_text` gives); gaps are white space only.

A chunker that counts words or tokens can cut with a **phase**, 0 <= phase < 1: the first chunk of every
paragraph, where counting begins, is only 1 - phase of a chunk long, so that the boundaries after it move by
that part of a chunk. Sentences stay whole, sizes obey the same limits, and a paragraph too short to be cut
stays as it is. Chunkers whose boundaries are those of the text (sentence, paragraph) have no phase.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

from nextvec.config import from_dict
from nextvec.corpus.spans import UNSHIFTED, Span, group, sentences_by_paragraph, word_spans
from nextvec.errors import ConfigError, EncoderError

TokenOffsets = Callable[[str], Sequence[tuple[int, int]]]
"""text -> the character span of each of its tokens, in order, special tokens left out."""

MAX_TOKENIZER_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document.

    Attributes:
        text: never empty, no white space at either end.
        start, end: where it stands in the document, in characters.
        gap: the white space between the chunk before (or the document's start) and this one; may be empty.
    """

    text: str
    start: int
    end: int
    gap: str


class Chunker(Protocol):
    """What `ingest` asks of a chunker."""

    kind: ClassVar[str]

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document. A text of white space gives no chunks.

        Raises ConfigError for a phase outside 0 <= phase < 1, and for any but 0 where there is none.
        """

    def describe(self) -> dict[str, Any]:
        """Kind and settings as JSON values; recorded in the store, which takes chunks of one chunker only."""


class _Described:
    kind: ClassVar[str]

    def describe(self) -> dict[str, Any]:
        """Kind and settings as JSON values."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]
        return {"kind": self.kind, **settings}


@dataclass(frozen=True)
class WordChunker(_Described):
    """About `words` words: sentences of a paragraph are added while there are fewer than `words`, unless the
    next would make it more than `max_words`.

    What is left at a paragraph's end, if under `min_words`, joins the chunk before, be it of another
    paragraph (the document's first chunk takes in the one after). So a chunk has less than `max_words` +
    `min_words` words, for certain: a sentence of over `max_words` is cut evenly at word boundaries, and a
    short rest that finds no room stays on its own.
    """

    kind: ClassVar[str] = "words"
    words: int = 50
    min_words: int = 20
    max_words: int = 80
    language: str = "en"

    def __post_init__(self) -> None:
        _check(0 <= self.min_words <= self.words <= self.max_words, "0 <= min_words <= words <= max_words")
        _check(self.words >= 1, "words >= 1")
        _check_language(self.language)

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks.

        With `phase`, the first chunk of a paragraph is of (1 - phase) x `words` words and at most
        (1 - phase) x `max_words` where sentences allow it, and never of under `min_words`.
        """
        check_phase(phase)
        units = sentences_by_paragraph(text, self.language, word_spans, self.max_words)
        room = self.max_words + max(self.min_words - 1, 0)
        sizes = {"target": self.words, "minimum": self.min_words, "maximum": self.max_words}
        return cut(text, group(units, **sizes, room=room, phase=phase))


@dataclass(frozen=True)
class _OfSentences(_Described):
    """Sentences of a paragraph, added while there are fewer than `_target` words."""

    max_words: int
    language: str = "en"

    def __post_init__(self) -> None:
        _check(self.max_words >= 1, "max_words >= 1")
        _check_language(self.language)

    @property
    def _target(self) -> int:
        return self.max_words

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks. Raises ConfigError for a phase: these boundaries are the text's."""
        if phase != UNSHIFTED:
            raise ConfigError(
                f"the {self.kind} chunker cuts where the text does: its boundaries cannot be shifted",
                where="chunker",
                remedy="cut by words or tokens, or with a single phase",
            )
        units = sentences_by_paragraph(text, self.language, word_spans, self.max_words)
        most = self.max_words
        return cut(text, group(units, target=self._target, minimum=0, maximum=most, room=most))


@dataclass(frozen=True)
class SentenceChunker(_OfSentences):
    """One sentence a chunk; one of over `max_words` words is cut evenly at word boundaries."""

    kind: ClassVar[str] = "sentence"
    max_words: int = 120

    @property
    def _target(self) -> int:
        return 1


@dataclass(frozen=True)
class ParagraphChunker(_OfSentences):
    """One paragraph a chunk; one of over `max_words` words is cut between sentences."""

    kind: ClassVar[str] = "paragraph"
    max_words: int = 250


@dataclass(frozen=True)
class TokenChunker(_Described):
    """As many sentences of a paragraph as fit in `tokens` tokens of the encoder's tokenizer.

    Tokens are counted in place, in their paragraph, without special tokens. What is left under
    `min_tokens` at a paragraph's end joins the chunk before if both fit.

    Args:
        tokenizer: text -> character span of each token (see `tokenizer_from_file`).
        tokenizer_id: what `describe` records for it: a hash of the tokenizer's file.
    """

    kind: ClassVar[str] = "tokens"
    tokenizer: TokenOffsets = field(repr=False, compare=False)
    tokenizer_id: str
    tokens: int = 128
    min_tokens: int = 24
    language: str = "en"

    def __post_init__(self) -> None:
        _check(0 <= self.min_tokens <= self.tokens, "0 <= min_tokens <= tokens")
        _check(self.tokens >= 1, "tokens >= 1")
        _check_language(self.language)

    def chunk(self, text: str, phase: Fraction = UNSHIFTED) -> list[Chunk]:
        """Cut one document into chunks.

        With `phase`, the first chunk of a paragraph is as many sentences as fit in (1 - phase) x `tokens`,
        at least one, and never under `min_tokens` where the next sentence could be added.
        """
        check_phase(phase)
        units = sentences_by_paragraph(text, self.language, self._token_spans, self.tokens)
        sizes = {"target": self.tokens, "minimum": self.min_tokens, "maximum": self.tokens}
        return cut(text, group(units, **sizes, room=self.tokens, phase=phase))

    def _token_spans(self, text: str) -> list[tuple[int, int]]:
        """Token spans that follow one another and leave out nothing but white space.

        A byte-level tokenizer gives several tokens for one character: all but the last get empty spans.
        Characters that no token covers go with the token before them.
        """
        starts = [start for start, _ in self.tokenizer(text)]
        if any(b < a for a, b in pairwise(starts)):
            raise EncoderError(
                "token spans are not in order",
                where=self.tokenizer_id,
                remedy="use the words chunker, or a tokenizer that gives character offsets",
            )
        if not starts:
            return [(0, len(text))]
        return list(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


CHUNKERS: dict[str, type[Any]] = {
    c.kind: c for c in (WordChunker, SentenceChunker, ParagraphChunker, TokenChunker)
}


def make_chunker(kind: str = "words", options: Mapping[str, Any] | None = None) -> Chunker:
    """The chunker of this name. Raises ConfigError for an unknown kind or an option it does not have.

    `tokens` needs the options `tokenizer` and `tokenizer_id` (see `tokenizer_from_file`).
    """
    if kind not in CHUNKERS:
        raise ConfigError(f"unknown chunker '{kind}'", remedy=f"choose one of: {', '.join(CHUNKERS)}")
    values = dict(options or {})
    if kind != TokenChunker.kind:
        built: Chunker = from_dict(CHUNKERS[kind], values, where=f"chunker {kind}")
        return built
    known = {f.name for f in fields(TokenChunker)}
    unknown, missing = values.keys() - known, {"tokenizer", "tokenizer_id"} - values.keys()
    if unknown or missing:
        wrong = [f"unknown option '{n}'" for n in sorted(unknown)] + [
            f"'{n}' missing" for n in sorted(missing)
        ]
        raise ConfigError(
            ", ".join(wrong), where="chunker tokens", remedy=f"it takes {', '.join(sorted(known))}"
        )
    return TokenChunker(**values)


def fingerprint(chunker: Chunker) -> str:
    """16 hex digits of the sha256 of `describe()`: equal for chunkers that cut alike."""
    canonical = json.dumps(chunker.describe(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def tokenizer_from_file(path: str | Path) -> tuple[TokenOffsets, str]:
    """A Hugging Face `tokenizer.json` as (`tokenizer`, `tokenizer_id`) of a TokenChunker.

    Its own truncation and padding are turned off. Raises EncoderError naming the file.
    """
    from tokenizers import Tokenizer

    path = Path(path)
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise EncoderError(f"larger than {MAX_TOKENIZER_BYTES >> 20} MiB", where=path)
        content = path.read_bytes()
    except OSError as e:
        raise EncoderError(
            f"cannot be read ({e.strerror})", where=path, remedy="name a tokenizer.json"
        ) from None
    try:
        loaded = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as e:  # noqa: BLE001 - tokenizers raises bare Exception
        raise EncoderError(f"is not a tokenizer ({e})", where=path, remedy="name a tokenizer.json") from None
    loaded.no_truncation()
    loaded.no_padding()

    def offsets(text: str) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = loaded.encode(text, add_special_tokens=False).offsets
        return spans

    return offsets, f"sha256:{hashlib.sha256(content).hexdigest()}"


def cut(text: str, spans: Iterable[Span]) -> list[Chunk]:
    """The chunks at `spans`, which follow one another and leave out only white space."""
    chunks = []
    before = 0
    for start, end, _ in spans:
        chunks.append(Chunk(text[start:end], start, end, text[before:start]))
        before = end
    return chunks


def check_phase(phase: Fraction) -> None:
    """Raise ConfigError for what is not a fraction of a chunk."""
    if not 0 <= phase < 1:
        raise ConfigError(
            f"phase {phase} is not a fraction of a chunk", where="chunker", remedy="give 0 <= phase < 1"
        )


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"sizes break the rule {rule}", where="chunker", remedy="correct the sizes")


def _check_language(language: str) -> None:
    if not re.fullmatch(r"[a-z]{2,3}", language):
        raise ConfigError(
            f"'{language}' is not a language code", where="chunker", remedy="give ISO 639, such as en"
        )
