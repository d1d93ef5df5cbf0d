"""How good a decoded text is: its words beside the true ones, whether it is text at all, whether it is
copied.

The meaning is measured elsewhere, by encoding it again. Words are what the tokens of the SQuAD script are
(Rajpurkar et al., 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text"): without case,
punctuation and the articles a, an, the.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nextvec.corpus.fingerprints import ngram_keys, text_key
from nextvec.errors import EvaluationError, require_package

ARTICLES = frozenset({"a", "an", "the"})
COPIED_WORDS = 13
"""So many words in a row that stand in a training text make a text copied: the length at which published
language models are checked for test text in their training data (Brown et al., 2020, appendix C)."""

MOST_REPEATED = 0.25
LEAST_ENTROPY = 0.75
"""Of 5,537 real chunks of about 50 words (articles, manuals and books), 0.36 % repeat
more of their pairs of words than the first, 0.22 % have a smaller share of the entropy than the second, and
0.42 % are one of the two (0.25 % of 2,032 others): lists and formal definitions. A chunk of several hundred
words repeats its words by nature; these limits are for shorter ones."""
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; punctuation is left out."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def token_f1(text: str, truth: str) -> float:
    """Harmonic mean of the shares of words that two texts have in common, each word as often as it stands;
    0 to 1. Two texts without a word agree."""
    one, other = (Counter(w for w in words_of(t) if w not in ARTICLES) for t in (text, truth))
    if not one or not other:
        return float(one == other)
    return 2.0 * (one & other).total() / (one.total() + other.total())


def bleu(texts: Sequence[str], truths: Sequence[str]) -> float:
    """Corpus BLEU by sacrebleu, 0 to 100, one reference a text (Papineni et al., 2002; Post, 2018).

    Raises:
        MissingDependencyError: sacrebleu is not installed.
        EvaluationError: no texts, or another number of truths.
    """
    if not texts or len(texts) != len(truths):
        raise EvaluationError(f"BLEU of {len(texts)} texts against {len(truths)} true ones")
    require_bleu()
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU().corpus_score(list(texts), [list(truths)]).score)


def require_bleu() -> None:
    """Raises MissingDependencyError where sacrebleu is not installed."""
    require_package("BLEU", "sacrebleu", "text")


@dataclass(frozen=True)
class Repetition:
    """How much a text says twice.

    Attributes:
        words: how many it has.
        bigrams: share of its pairs of neighbouring words that stand in it earlier; 0 of fewer than two pairs.
        entropy: of its words, as a share of the largest that so many words can have: 1 where no word comes
            twice, 0 where all are one word. 1 of a single word, 0 of none.
    """

    words: int
    bigrams: float
    entropy: float

    @classmethod
    def of(cls, text: str) -> Repetition:
        words = words_of(text)
        pairs = list(pairwise(words))
        repeated = 1 - len(set(pairs)) / len(pairs) if len(pairs) > 1 else 0.0
        return cls(len(words), repeated, _entropy(words))

    @property
    def gibberish(self) -> bool:
        """Whether no writer repeats himself so: more than MOST_REPEATED of the pairs, or less than
        LEAST_ENTROPY of the entropy. Nonsense of ever new words is not found by this."""
        return self.bigrams > MOST_REPEATED or self.entropy < LEAST_ENTROPY


def _entropy(words: Sequence[str]) -> float:
    if len(words) < 2:
        return float(len(words))
    shares = np.array(list(Counter(words).values())) / len(words)
    return float(-(shares * np.log(shares)).sum() / math.log(len(words)))


def gibberish(text: str) -> bool:
    """Whether a text repeats itself as no writer does, or has no word in it (see `Repetition`)."""
    return Repetition.of(text).gibberish


class KnownTexts:
    """The texts that a decoder learned from, to tell what it has copied: 8 bytes for each word of them.

    Args:
        texts: training chunks.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        whole, ngrams, words = [], [np.zeros(0, np.uint64)], set()
        for text in texts:
            whole.append(text_key(text))
            ngrams.append(ngram_keys(text, COPIED_WORDS))
            words.update(words_of(text))
        self._whole = frozenset(whole)
        self._ngrams: NDArray[np.uint64] = np.unique(np.concatenate(ngrams))
        self._words = frozenset(words)

    def copied(self, text: str) -> bool:
        """Whether a text is one of them (but for case, punctuation and spacing), or has COPIED_WORDS words in
        a row of one."""
        if text_key(text) in self._whole:
            return True
        keys = ngram_keys(text, COPIED_WORDS)
        at = np.searchsorted(self._ngrams, keys)
        inside = at < len(self._ngrams)
        return bool((self._ngrams[at[inside]] == keys[inside]).any())

    def unknown(self, text: str) -> float:
        """Share of a text's words that stand in none of them: invented words, and names; 0 of no words."""
        words = words_of(text)
        return sum(w not in self._words for w in words) / max(len(words), 1)
