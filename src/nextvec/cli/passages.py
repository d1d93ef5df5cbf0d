"""Passages on the terminal, each labelled with whether somebody wrote it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nextvec.cli.verdicts import WIDTH

if TYPE_CHECKING:
    from nextvec.decoding.base import NextPassage, Passage, RolloutText

INDENT = 4
SHORT = 90


def describe_reading(found: NextPassage | RolloutText, name: str) -> str:
    """What was read, and where it ended."""
    many = f"{found.read} of {found.of} chunks" if found.read < found.of else _count(found.of, "chunk")
    return textwrap.fill(f"{name} read {many}. The last one: {short(found.last, 3 * SHORT)}", WIDTH)


def listed(passages: Sequence[Passage]) -> list[str]:
    """Lines of real passages, numbered."""
    return [line for number, passage in enumerate(passages, 1) for line in describe_passage(passage, number)]


def describe_passage(passage: Passage, number: int | None = None) -> list[str]:
    """What it is and where it stands; its text below."""
    decoded = passage.decoded
    place = ""
    if passage.document is not None and passage.position is not None:
        place = f"  {passage.title or passage.document}, chunk {passage.position + 1}"
    odds = "" if passage.probability is None else f"  follows with {passage.probability:.3f}"
    scale = "cosine" if decoded.how == "retrieved" else "score"
    head = f"{decoded.how}{'' if number is None else f' {number}'}  {scale} {decoded.score:.3f}{odds}{place}"
    return [head, *wrapped(decoded.text)]


def wrapped(text: str) -> list[str]:
    """A text as indented lines."""
    margin = " " * INDENT
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=margin, subsequent_indent=margin,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def short(text: str, most: int = SHORT) -> str:
    """A text on one line, cut in its middle where it is longer than `most` characters."""
    text = " ".join(text.split())
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
