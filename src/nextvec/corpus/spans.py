"""What all chunkers share: paragraphs, sentences and words as spans of the text, and their grouping."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")
_LIST_ITEM = re.compile(r"\n(?=[-*•] |\d{1,3}[.)] )")
# A word is a run of non-blanks. Han and Kana characters are not separated by blanks: each counts as one. Nor
# are the words of Thai, Lao, Burmese and Khmer, of about four letters and their marks: so many count as one.
# Any other run of over 40 (a URL, base64) counts as several. No word ends before a combining mark or joiner.
_EACH = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARKS = (
    r"\u0300-\u036f\u200d\ufe00-\ufe0f"
    r"\u0e31\u0e33-\u0e3a\u0e45-\u0e4e\u0eb1\u0eb3-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
)
_WORD = re.compile(
    rf"[{_EACH}]"
    rf"|(?:[{_UNSPACED}](?:\u17d2[\u1780-\u17b3]|[{_MARKS}])*){{1,4}}"
    rf"|[^\s{_EACH}{_UNSPACED}]{{1,40}}[{_MARKS}]*"
)

UNSHIFTED = Fraction(0)
Measure = Callable[[str], list[tuple[int, int]]]
"""The spans of a text's words or tokens."""


class Span(NamedTuple):
    """Characters start:end of a document, `size` words or tokens long."""

    start: int
    end: int
    size: int


def paragraph_spans(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the paragraphs, separated by blank lines, trimmed; those of white space are left out."""
    start = 0
    for match in [*_PARAGRAPH_BREAK.finditer(text), None]:
        end = match.start() if match else len(text)
        if span := _trim(text, start, end):
            yield span
        start = match.end() if match else len(text)


def sentence_spans(text: str, language: str) -> list[tuple[int, int]]:
    """Spans of the sentences of one paragraph, trimmed. A list item begins a sentence too.

    An unknown language gets sentencex's rules for English.
    """
    from sentencex import segment

    spans = []
    start = 0
    for sentence in segment(language, text):
        stop = start + len(sentence)
        for match in [*_LIST_ITEM.finditer(text, start, stop), None]:
            end = match.end() if match else stop
            if span := _trim(text, start, end):
                spans.append(span)
            start = end
    if rest := _trim(text, start, len(text)):
        spans.append(rest)
    return spans


def word_spans(text: str) -> list[tuple[int, int]]:
    """Spans of the words of a text."""
    return [m.span() for m in _WORD.finditer(text)]


def group(
    paragraphs: Iterable[Sequence[Span]],
    *,
    target: int,
    minimum: int,
    maximum: int,
    room: int,
    phase: Fraction = UNSHIFTED,
) -> list[Span]:
    """Join neighbouring spans of a paragraph until `target` is reached, never above `maximum`.

    A result under `minimum` joins the one before, across paragraphs, unless both exceed `room`; the first
    one, having none before, takes in the one after.

    With `phase`, 0 <= phase < 1, the first result of every paragraph is cut short: its target and its maximum
    are 1 - phase of the others', but not under `minimum`. All that follows in the paragraph moves with it.
    """
    lead = max(minimum, math.ceil(target * (1 - phase)))
    most_of_lead = max(lead, math.floor(maximum * (1 - phase)))
    out: list[Span] = []

    def emit(span: Span) -> None:
        small = span.size < minimum or (len(out) == 1 and out[0].size < minimum)
        if out and small and out[-1].size + span.size <= room:
            span = _join(out.pop(), span)
        out.append(span)

    for paragraph in paragraphs:
        current: Span | None = None
        enough, most = lead, most_of_lead
        for unit in paragraph:
            # Only a short lead can be both over its own maximum and too small to stand alone.
            limit = most if current is not None and current.size >= minimum else maximum
            if current is not None and current.size + unit.size > limit:
                emit(current)
                current, enough, most = None, target, maximum
            current = unit if current is None else _join(current, unit)
            if current.size >= enough:
                emit(current)
                current, enough, most = None, target, maximum
        if current is not None:
            emit(current)
    return out


def sentences_by_paragraph(text: str, language: str, measure: Measure, maximum: int) -> Iterator[list[Span]]:
    """For each paragraph its sentences, measured in words or tokens, none of over `maximum`."""
    for start, end in paragraph_spans(text):
        paragraph = text[start:end]
        words = measure(paragraph)
        units: list[Span] = []
        first = 0
        for a, b in sentence_spans(paragraph, language):
            last = first
            while last < len(words) and words[last][0] < b:
                last += 1
            # A word that began in the sentence before and goes on in this one is a word of both.
            begun = first
            while begun > 0 and words[begun - 1][1] > a:
                begun -= 1
            shared = [(a, end_of) for _, end_of in words[begun:first]]
            units.extend(_pieces(paragraph, a, b, [*shared, *words[first:last]], maximum))
            first = last
        yield [Span(start + a, start + b, size) for a, b, size in units]


def _pieces(
    text: str, start: int, end: int, words: Sequence[tuple[int, int]], maximum: int
) -> Iterator[Span]:
    """A sentence in pieces of at most `maximum` words or tokens, about even, cut at white space where the
    second half of a piece has any."""
    even = -(-len(words) // max(1, -(-len(words) // maximum)))
    first, begin = 0, start
    while True:
        last = min(first + even, len(words))
        if last < len(words):
            begins = ((edge, words[edge][0]) for edge in range(last, first + even // 2, -1))
            blanks = (edge for edge, at in begins if text[at].isspace() or text[at - 1].isspace())
            last = next(blanks, last)
        stop = words[last][0] if last < len(words) else end
        # Several tokens may share one character: of these pieces all but the last are empty.
        if span := _trim(text, begin, stop):
            yield Span(*span, last - first)
        if last >= len(words):
            return
        first, begin = last, stop


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """text[start:end] without white space at its ends; None where nothing is left."""
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    end = start + len(body.strip())
    return (start, end) if start < end else None


def _join(a: Span, b: Span) -> Span:
    return Span(a.start, b.end, a.size + b.size)
