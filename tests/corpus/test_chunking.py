"""Chunkers: the law that chunks give the text back, and the sizes each promises."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from nextvec.corpus.chunking import (
    CHUNKERS,
    ParagraphChunker,
    SentenceChunker,
    TokenChunker,
    WordChunker,
    fingerprint,
    make_chunker,
    tokenizer_from_file,
)
from nextvec.errors import ConfigError, EncoderError


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i, c in enumerate(text) if not c.isspace()]


def text_bytes(text: str) -> list[tuple[int, int]]:
    """As a byte-level tokenizer: several tokens with one character's span."""
    return [(i, i + 1) for i, c in enumerate(text) for _ in c.encode()]


# Plain prose, everything that breaks lines or sentences, marks that combine, and anything else.
texts = st.text(
    alphabet=st.one_of(
        st.sampled_from(list(" \n\n.!?\"'()-*•1aAé你。：\u3000\x85\u2028\xa0\t\r\u0301\u200d😀")),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=200,
)


@settings(max_examples=300, deadline=None)
@given(text=texts, size=st.integers(1, 9))
def test_chunks_give_the_text_back(text: str, size: int) -> None:
    for chunker in (
        WordChunker(size, min(size, 3), size + 2),
        SentenceChunker(size),
        ParagraphChunker(size),
        TokenChunker(characters, "characters", size, min(size, 2)),
        TokenChunker(text_bytes, "bytes", size, 0),
    ):
        chunks = chunker.chunk(text)
        assert "".join(c.gap + c.text for c in chunks) == text.rstrip()
        for c in chunks:
            assert text[c.start : c.end] == c.text == c.text.strip() != ""
            assert not c.gap.strip()


@settings(max_examples=200, deadline=None)
@given(text=texts, size=st.integers(1, 9))
def test_no_chunk_is_longer_than_promised(text: str, size: int) -> None:
    for c in TokenChunker(characters, "characters", size, 0).chunk(text):
        assert len(characters(c.text)) <= size
    for c in WordChunker(size, 2 if size > 1 else 0, size + 2).chunk(text):
        assert len(c.text.split()) <= size + 3


def sentence(words: int, name: str = "word") -> str:
    return " ".join([name.capitalize(), *[name] * (words - 1)]) + "."


def sizes(chunks: list) -> list[int]:
    return [len(c.text.split()) for c in chunks]


def test_words_are_grouped_to_about_fifty() -> None:
    text = " ".join(sentence(20) for _ in range(8))
    assert sizes(WordChunker().chunk(text)) == [60, 60, 40]


def test_a_sentence_that_would_exceed_the_maximum_starts_the_next_chunk() -> None:
    assert sizes(WordChunker().chunk(f"{sentence(45)} {sentence(40)} {sentence(30)}")) == [45, 70]


def test_a_short_rest_joins_the_chunk_before_even_of_another_paragraph() -> None:
    assert sizes(WordChunker().chunk(f"{sentence(50)} {sentence(19)}")) == [69]
    assert sizes(WordChunker().chunk(f"{sentence(50)}\n\n{sentence(19)}")) == [69]
    assert sizes(WordChunker().chunk(f"{sentence(50)}\n\n{sentence(20)}")) == [50, 20]


def test_a_short_beginning_takes_in_what_follows() -> None:
    chunks = WordChunker().chunk(f"{sentence(3)}\n\n{sentence(60)}\n\n{sentence(50)}")
    assert sizes(chunks) == [63, 50]
    assert chunks[1].gap == "\n\n"


def test_many_short_paragraphs_do_not_pile_up() -> None:
    chunks = WordChunker().chunk("\n\n".join(sentence(5) for _ in range(100)))
    assert max(sizes(chunks)) < 100
    assert len(chunks) >= 5


def test_a_long_sentence_is_cut_evenly_between_words() -> None:
    text = sentence(170)
    chunks = WordChunker().chunk(text)
    assert sizes(chunks) == [57, 57, 56]
    assert all(c.gap in ("", " ") for c in chunks)


def test_text_without_blanks_is_cut_too() -> None:
    assert [len(c.text) for c in WordChunker().chunk("字" * 160)] == [80, 80]
    assert max(len(c.text) for c in WordChunker().chunk("x" * 10_000)) <= 80 * 40


def test_sentences_and_list_items() -> None:
    text = "Dr. Smith came at 3.5 p.m. yesterday. He left!\n\nHe took:\n- a hat\n- a coat\n12) a cat"
    assert [c.text for c in SentenceChunker().chunk(text)] == [
        "Dr. Smith came at 3.5 p.m. yesterday.",
        "He left!",
        "He took:",
        "- a hat",
        "- a coat",
        "12) a cat",
    ]


def test_a_line_break_within_a_paragraph_ends_no_sentence() -> None:
    assert len(SentenceChunker().chunk("A line that\ngoes on here.")) == 1


def test_paragraphs() -> None:
    text = f"{sentence(5)}\n\n{sentence(150)} {sentence(150)}\n \n{sentence(2)}"
    assert sizes(ParagraphChunker().chunk(text)) == [5, 150, 150, 2]
    assert sizes(ParagraphChunker(max_words=300).chunk(text)) == [5, 300, 2]


@pytest.mark.parametrize("kind", ["words", "sentence", "paragraph"])
def test_nothing_gives_no_chunks(kind: str) -> None:
    assert make_chunker(kind).chunk(" \n\n ") == []
    assert make_chunker(kind).chunk("") == []


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog ran"] * 3, trainer)
    tokenizer.enable_truncation(4)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_a_token_budget_holds_with_a_real_tokenizer(tokenizer_file: Path) -> None:
    tokens, name = tokenizer_from_file(tokenizer_file)
    assert name.startswith("sha256:")
    text = " ".join(["The cat sat on the mat, and the naïve dog 😀 ran."] * 6) + "\n\nThe cat ran."
    chunker = TokenChunker(tokens, name, tokens=40, min_tokens=4)
    chunks = chunker.chunk(text)
    counts = [len(tokens(c.text)) for c in chunks]
    assert max(counts) <= 40
    assert len(chunks) >= 6
    assert "".join(c.gap + c.text for c in chunks) == text
    assert all(text[c.start - 1 : c.start] in ("", " ", "\n") for c in chunks)  # never within a word


def test_a_tokenizer_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"absent\.json: cannot be read"):
        tokenizer_from_file(tmp_path / "absent.json")
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"t\.json: is not a tokenizer"):
        tokenizer_from_file(tmp_path / "t.json")
    with pytest.raises(EncoderError, match="token spans are not in order"):
        TokenChunker(lambda text: [(3, 4), (0, 1)], "bad").chunk("some text")


def test_description_and_fingerprint_follow_the_settings() -> None:
    assert WordChunker().describe() == {
        "kind": "words", "words": 50, "min_words": 20, "max_words": 80, "language": "en",
    }  # fmt: skip
    tokens = TokenChunker(characters, "sha256:0", 64)
    assert tokens.describe()["tokenizer_id"] == "sha256:0"
    assert "tokenizer" not in tokens.describe()
    assert json.loads(json.dumps(tokens.describe())) == tokens.describe()
    assert fingerprint(WordChunker()) == fingerprint(make_chunker())
    assert fingerprint(WordChunker(words=40)) != fingerprint(WordChunker())
    assert fingerprint(tokens) == fingerprint(TokenChunker(text_bytes, "sha256:0", 64))


def test_make_chunker_is_strict() -> None:
    assert make_chunker("words", {"words": 30}) == WordChunker(words=30)
    given_tokens = {"tokenizer": characters, "tokenizer_id": "c", "tokens": 9, "min_tokens": 0}
    assert make_chunker("tokens", given_tokens).describe()["tokens"] == 9
    assert set(CHUNKERS) == {"words", "sentence", "paragraph", "tokens"}
    with pytest.raises(ConfigError, match="unknown chunker 'wrods'; choose one of: words"):
        make_chunker("wrods")
    with pytest.raises(ConfigError, match="unknown key 'word'; did you mean 'words'"):
        make_chunker("words", {"word": 3})
    with pytest.raises(ConfigError, match="'tokenizer' missing, 'tokenizer_id' missing"):
        make_chunker("tokens", {})


@pytest.mark.parametrize(
    "build",
    [
        lambda: WordChunker(words=10),
        lambda: WordChunker(words=0, min_words=0),
        lambda: WordChunker(words=100),
        lambda: SentenceChunker(max_words=0),
        lambda: ParagraphChunker(max_words=0),
        lambda: TokenChunker(characters, "c", tokens=10),
        lambda: WordChunker(language="English"),
    ],
)
def test_sizes_that_cannot_be_meant(build) -> None:
    with pytest.raises(ConfigError):
        build()


@pytest.mark.slow
def test_a_hundred_documents_of_5000_words_take_about_a_second() -> None:
    document = "\n\n".join(" ".join(sentence(20, f"w{i}") for i in range(5)) for _ in range(50))
    started = time.perf_counter()
    count = sum(len(WordChunker().chunk(document)) for _ in range(100))
    assert count == 100 * 100
    assert time.perf_counter() - started < 5.0
