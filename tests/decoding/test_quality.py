"""Figures of texts, on texts whose figures can be worked out by hand."""

from __future__ import annotations

import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.decoding.quality import (
    COPIED_WORDS,
    KnownTexts,
    Repetition,
    bleu,
    gibberish,
    token_f1,
    words_of,
)
from nextvec.errors import EvaluationError, MissingDependencyError
from passages import documents

RIVER = "The river rises in the hills, runs past the old mill and meets the tide below the bridge at night."


@pytest.mark.parametrize(
    ("text", "truth", "f1"),
    [
        ("The cat sat.", "a CAT sat!", 1.0),
        ("cat", "dog", 0.0),
        # two of three and two of four words: 2 * 2 / (3 + 4)
        ("cat sat down", "cat sat there quietly", 4 / 7),
        # a word counts as often as both have it
        ("cat cat cat", "cat dog", 2 / 5),
        ("", "", 1.0),
        ("the", "an", 1.0),
        ("", "cat", 0.0),
        ("ﬁne", "fine", 1.0),
    ],
)
def test_token_f1(text: str, truth: str, f1: float) -> None:
    assert token_f1(text, truth) == pytest.approx(f1)
    assert token_f1(truth, text) == pytest.approx(f1)


@given(st.text(), st.text())
def test_token_f1_is_a_share_and_1_of_itself(one: str, other: str) -> None:
    assert 0 <= token_f1(one, other) <= 1
    assert token_f1(one, one) == 1


def test_words_keep_what_stands_inside_them() -> None:
    assert words_of("Don't stop -- it's 3.5 km, O’Neil!") == [
        "don't",
        "stop",
        "it's",
        "3",
        "5",
        "km",
        "o’neil",
    ]


def test_bleu_is_that_of_the_corpus() -> None:
    truths = ["the cat sat on the mat", "it is raining in the hills today"]
    assert bleu(truths, truths) == pytest.approx(100)
    assert bleu(["dog barked", "nothing"], truths) < 2
    # Every n-gram of the shorter text is right, so only its brevity costs: exp(1 - 6 / 5).
    assert bleu(["the cat sat on the"], truths[:1]) == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_bleu_of_nothing_or_of_other_texts_is_refused() -> None:
    with pytest.raises(EvaluationError, match="BLEU of 1 texts against 2 true ones"):
        bleu(["a"], ["a", "b"])
    with pytest.raises(EvaluationError, match="BLEU of 0 texts"):
        bleu([], [])


def test_bleu_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else real(name))
    with pytest.raises(MissingDependencyError, match=r"pip install nextvec\[text\]"):
        bleu(["a"], ["a"])


@pytest.mark.parametrize(
    ("text", "words", "bigrams", "entropy"),
    [
        ("one two three four", 4, 0.0, 1.0),
        # pairs: ab ba ab ba ab, two of five new; two words in equal shares of six
        ("a b a b a b", 6, 3 / 5, math.log(2) / math.log(6)),
        ("so so so", 3, 1 / 2, 0.0),
        ("so so", 2, 0.0, 0.0),
        ("so", 1, 0.0, 1.0),
        ("?!", 0, 0.0, 0.0),
    ],
)
def test_repetition(text: str, words: int, bigrams: float, entropy: float) -> None:
    found = Repetition.of(text)
    assert found.words == words
    assert (found.bigrams, found.entropy) == (pytest.approx(bigrams), pytest.approx(entropy))


@pytest.mark.parametrize(
    "text",
    [
        "the the the the the the",
        "of the river of the river of the river of the river and of the river",
        "mill mill mill bridge mill mill tide mill mill mill mill mill",
        "-- ... --",
        "",
    ],
)
def test_what_repeats_itself_is_gibberish(text: str) -> None:
    assert gibberish(text)


def test_what_people_write_is_not() -> None:
    sentences = [s for text in documents().values() for s in text.split(". ")]
    assert not any(map(gibberish, [RIVER, "Yes.", *sentences, *documents().values()]))


def test_a_copied_chunk_is_known_whatever_its_case_and_punctuation() -> None:
    known = KnownTexts(["Short one.", RIVER])
    assert known.copied("short ONE")
    assert not known.copied("short one, and more")
    assert not known.copied("")


def test_so_many_words_in_a_row_are_copied_and_one_fewer_are_not() -> None:
    words, known = words_of(RIVER), KnownTexts(["Nothing of it.", RIVER])
    around = ("once upon a time", "and so it was")
    for start in (0, 2, len(words) - COPIED_WORDS):
        run = words[start : start + COPIED_WORDS]
        assert known.copied(" ".join([around[0], *run, around[1]]))
        assert not known.copied(" ".join([around[0], *run[:-1], around[1]]))
    assert KnownTexts([RIVER]).copied(RIVER.upper())
    assert not KnownTexts([]).copied(RIVER)


def test_the_words_of_two_texts_make_no_run() -> None:
    words = words_of(RIVER)
    halves = [" ".join(words[:10]), " ".join(words[10:])]
    assert not KnownTexts(halves).copied(RIVER)


def test_new_words_are_those_of_no_known_text() -> None:
    known = KnownTexts(["one two", "Three"])
    assert known.unknown("One, three: fourth and FIFTH.") == pytest.approx(3 / 5)
    assert known.unknown("...") == 0
