"""Tables in columns and Markdown, sentences of one width, texts cut to a length."""

from __future__ import annotations

from nextvec.text import WIDTH, columns, counted, fill, shorten, table


def test_columns_are_aligned_the_first_left_the_others_right() -> None:
    assert table(["name", "n"], [["a", "10"], ["long one", "9"]]) == [
        "name       n",
        "--------  --",
        "a         10",
        "long one   9",
    ]
    assert columns(["a"], []) == "a\n-"


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert table(["a", "b"], [["x|y", "1"]], markdown=True) == [
        "| a    | b |",
        "| ---- | : |",
        "| x\\|y | 1 |",
    ]


def test_a_text_fills_lines_and_words_stay_whole() -> None:
    lines = fill("word-by-word " * 20, "  ok  ").splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].startswith("  ok  word-by-word")
    assert lines[1].startswith("      word-by-word")
    assert fill("x" * (WIDTH + 5)) == "x" * (WIDTH + 5)


def test_one_is_singular() -> None:
    assert [counted(n, "document") for n in (0, 1, 1200)] == ["0 documents", "1 document", "1,200 documents"]
    assert counted(2, "paragraph recurs", "paragraphs recur") == "2 paragraphs recur"


def test_a_text_is_cut_to_a_length_on_one_line() -> None:
    assert shorten("a  b\nc", 5) == "a b c"
    assert shorten("one two three", 8) == "one t..."
    assert shorten("one two three four", 13, middle=True) == "one  ... four"
    assert shorten("漢" * 20, 10) == "漢" * 7 + "...", "also without spaces"
