"""Wikitext -> prose, parsed by mwparserfromhell.

Left out: references, tables, galleries, files, categories, comments, program listings, links to other
language editions, and every template but the few that stand for a piece of the sentence ("from the Greek ,
meaning"). Left out too are headings (unless asked for; a heading would end the chunk of the section before)
and the sections after the article proper (English names: References, See also, External links, ...). Kept:
link texts, list items as lines "- ...", quotations as paragraphs, formulas as their LaTeX source. What the
removals leave behind, such as "()" or a blank before a comma, is tidied."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

Render = Callable[[Any], str]
Values = list[str]


def render_template(template: Any, render: Render) -> str:
    """The text a template stands for in a sentence; none for those not known here.

    Args:
        template: a node of mwparserfromhell.
        render: gives the text of a parameter's value.
    """
    name = str(template.name).strip().replace("_", " ").lower()
    text_of = _TEMPLATES.get("lang-" if name.startswith("lang-") else name)
    if text_of is None:
        return ""
    values = [render(p.value).strip() for p in template.params if _positional(p)]
    return text_of(values)


def _positional(parameter: Any) -> bool:
    return not parameter.showkey or str(parameter.name).strip().isdigit()


def _at(index: int, before: str = "", after: str = "") -> Callable[[Values], str]:
    """The text of one positional parameter (negative: from the end), if it is there and not empty."""

    def text_of(values: Values) -> str:
        inside = -len(values) <= index < len(values)
        return f"{before}{values[index]}{after}" if inside and values[index] else ""

    return text_of


def _constant(text: str) -> Callable[[Values], str]:
    return lambda values: text


def _convert(values: Values) -> str:
    """{{convert|5|km|mi}} -> 5 km; {{convert|5|to|8|km|mi}} -> 5 to 8 km."""
    joins = {"-": "–", "–": "–", "x": " × ", **{word: f" {word} " for word in ("to", "and", "or", "by", "+")}}
    if len(values) >= 4 and values[1] in joins:
        return f"{values[0]}{joins[values[1]]}{values[2]} {values[3]}"
    return " ".join(values[:2])


def _fraction(values: Values) -> str:
    whole, numerator, denominator = ["", *(["1"] if len(values) == 1 else []), *values][-3:]
    return f"{whole} {numerator}/{denominator}".strip()


_first, _second, _last = _at(0), _at(1), _at(-1)

_TEMPLATES: dict[str, Callable[[Values], str]] = {
    **dict.fromkeys(("lang", "script", "tl transl"), _second),
    **dict.fromkeys(("lang-", "nihongo", "zh", "nq", "ipa"), _first),
    **dict.fromkeys(("transl", "transliteration"), _last),
    **dict.fromkeys(
        ("nowrap", "nobr", "smaller", "small", "big", "sc", "smallcaps", "vanchor", "visible anchor", "abbr",
         "val", "num", "formatnum", "math", "mvar", "em", "strong", "tooltip", "flag", "flagcountry", "sub",
         "linktext", "notatypo", "sic", "avoid wrap", "bold", "italic", "ill", "interlanguage link"),
        _first,
    ),
    **dict.fromkeys(
        ("quote", "blockquote", "bquote", "cquote", "quotation", "rquote", "poemquote", "quotebox",
         "columns-list", "div col list"),
        _at(0, "\n\n", "\n\n"),
    ),
    **dict.fromkeys(("circa", "c."), _at(0, "c. ")),
    **dict.fromkeys(("nbsp", "thinsp", "space", "hairsp", "spaces"), _constant(" ")),
    **dict.fromkeys(("snd", "spaced ndash", "ndash", "dash"), _constant(" – ")),
    **dict.fromkeys(("mdash", "mdashb", "emdash", "spaced mdash"), _constant(" — ")),
    **dict.fromkeys(("convert", "cvt"), _convert),
    **dict.fromkeys(("frac", "sfrac", "fraction"), _fraction),
    **dict.fromkeys(("chem", "chem2"), "".join),
    **dict.fromkeys(("hlist", "flatlist", "cslist"), ", ".join),
    "as of": _at(0, "As of "),
    "angbr": _at(0, "⟨", "⟩"),
    "sup": _at(0, "^"),
    "'s": _constant("'s"),
    "'": _constant("'"),
    "!": _constant("|"),
    "=": _constant("="),
    "reign": "–".join,
    "railgauge": _first,
}  # fmt: skip


DROPPED_TAGS = frozenset({
    "ref", "references", "gallery", "table", "timeline", "score", "imagemap", "includeonly", "source",
    "syntaxhighlight", "graph", "templatedata", "mapframe", "maplink", "hiero", "categorytree", "inputbox",
})  # fmt: skip
BLOCK_TAGS = frozenset({"blockquote", "center", "div", "p", "poem", "ul", "ol", "dl", "hr", "pre"})
END_MATTER = frozenset({
    "references", "notes", "footnotes", "citations", "sources", "bibliography", "works cited",
    "notes and references", "references and notes", "notes and citations", "general references", "see also",
    "further reading", "external links", "external link", "links",
})  # fmt: skip

# Marks for line starts while nodes are joined; XML cannot hold these characters. A heading's is followed by
# its level. Headings are marked, not looked for among the top nodes: an unclosed tag holds all after it.
_ITEM, _INDENT, _HEADING = "\x02", "\x03", "\x04"

# References and comments are most of an article's markup: removed before the parse, which they would double.
# None reaches over the start of the next; of an unclosed one only the tag goes, so that it hides no text.
_UNPARSED = re.compile(
    r"<!--(?:(?!<!--).)*?-->|<ref\b[^<>]*?/>|<ref\b[^<>]*>(?:(?!<ref\b).)*?</ref\s*>|<!--|</?ref\b[^<>]*>",
    re.DOTALL | re.IGNORECASE,
)
# The parser's time grows with the square of what is opened and never closed. Articles leave open a few.
MAX_UNCLOSED = 200
_OPEN_TAG = re.compile(r"<(?!br\b|hr\b|li\b|dd\b|dt\b|td\b|th\b|tr\b)[a-z][^<>]*(?<!/)>", re.IGNORECASE)
_BEGUN_TAG = re.compile(r"<[a-z][^<>]*(?=<|\Z)", re.IGNORECASE)
_CLOSE_TAG = re.compile(r"</[a-z]", re.IGNORECASE)
# "}}" ends a template, "} }" means the same to LaTeX.
_LATEX_DOUBLE = re.compile(r"(?<=\{)(?=\{)|(?<=\})(?=\})|(?<=\[)(?=\[)|(?<=\])(?=\])|(?<=')(?=')")
_LANGUAGE_LINK = re.compile(r"(?:[a-z]{2,3}(?:-[a-z]{2,8}){0,2}|simple):\S")


@dataclass(frozen=True)
class LinkPrefixes:
    """Namespaces (lower case) whose links show no text: files and categories, in English and the wiki's."""

    names: frozenset[str] = frozenset({"file", "image", "media", "category"})

    def with_namespace(self, key: str, name: str) -> LinkPrefixes:
        """Add a namespace of the site information if its key is media (-2), file (6) or category (14)."""
        if key not in ("-2", "6", "14"):
            return self
        return replace(self, names=self.names | {name.strip().lower()})


def is_balanced(wikitext: str) -> bool:
    """Whether templates, links, tables and tags are closed, but for MAX_UNCLOSED of each. If not, it is
    vandalism or damage, and parsing could take hours."""
    unclosed = [wikitext.count(a) - wikitext.count(b) for a, b in (("{{", "}}"), ("[", "]"), ("{|", "|}"))]
    unclosed.append(len(_OPEN_TAG.findall(wikitext)) - len(_CLOSE_TAG.findall(wikitext)))
    unclosed.append(sum(1 for _ in _BEGUN_TAG.finditer(wikitext)))
    return max(unclosed) <= MAX_UNCLOSED


def clean_wikitext(
    wikitext: str, *, prefixes: LinkPrefixes | None = None, keep_headings: bool = False
) -> tuple[str, int]:
    """The prose of an article, paragraphs separated by blank lines, and how many headings were left out."""
    import mwparserfromhell

    code = mwparserfromhell.parse(_UNPARSED.sub("", wikitext))
    render = _Renderer(prefixes or LinkPrefixes())
    return _assemble(_lines(render(code)), keep_headings)


class _Renderer:
    """Parsed wikitext -> text with line marks."""

    def __init__(self, prefixes: LinkPrefixes) -> None:
        from mwparserfromhell import nodes

        self.prefixes = prefixes.names
        self.by_type: dict[type[Any], Callable[[Any], str]] = {
            nodes.Text: lambda node: str(node.value),
            nodes.Wikilink: self._link,
            nodes.Tag: self._tag,
            nodes.Template: lambda node: render_template(node, self),
            nodes.ExternalLink: lambda node: self(node.title) if node.title is not None else "",
            nodes.HTMLEntity: self._entity,
            nodes.Heading: lambda node: f"\n{_HEADING}{node.level}{self(node.title)}\n",
            nodes.Comment: lambda node: "",
            nodes.Argument: lambda node: "",
        }

    def __call__(self, code: Any) -> str:
        """The text of a Wikicode; of None, none."""
        return "" if code is None else "".join(map(self.node, code.nodes))

    def node(self, node: Any) -> str:
        """The text of one node."""
        return self.by_type[type(node)](node)

    def _link(self, node: Any) -> str:
        title = str(node.title).strip()
        prefix = title.partition(":")[0].strip().lower().replace("_", " ")
        if ":" in title and prefix in self.prefixes:
            return ""
        text = self(node.text) if node.text is not None else ""
        if text.strip():
            return text
        return "" if _LANGUAGE_LINK.match(title) else self(node.title).strip().lstrip(":")

    def _tag(self, node: Any) -> str:
        name = str(node.tag).strip().lower()
        if node.wiki_markup in ("*", "#"):
            return _ITEM
        if node.wiki_markup in (":", ";"):
            return _INDENT
        if name in DROPPED_TAGS:
            return ""
        if name == "br":
            return "\n"
        if name in ("math", "chem", "ce"):
            return _LATEX_DOUBLE.sub(" ", str(node.contents).replace("\n", " "))
        text = self(node.contents)
        if name == "li":
            return f"\n{_ITEM}{text}"
        if name == "sup" and re.match(r"[-−+]?\d", text):
            return f"^{text}"  # 10<sup>5</sup> is not 105
        return f"\n\n{text}\n\n" if name in BLOCK_TAGS else text

    def _entity(self, node: Any) -> str:
        character = str(node.normalize())
        # Half a surrogate pair is no character; a control character could be one of the marks.
        return "" if unicodedata.category(character[0]) in ("Cs", "Cc") else character


_LEADING_MARKS = re.compile(f"[ {_ITEM}{_INDENT}]*")
_INNER_MARKS = re.compile(f"[{_ITEM}{_INDENT}{_HEADING}]+")
_TABLE_LEFTOVER = re.compile(r"(?:\{\||\|\}|\|-|\||!)")
_TIDY: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), into)
    for pattern, into in (
        (r"__[A-Z]{3,}__", ""),
        (
            r"\[\[(?:[^\[\]|]*\|)?(?:(?:thumb|thumbnail|frame|frameless|border|left|right|center|none|upright"
            r"|\d+px)(?:=[^|]*)?\|)*",
            "",
        ),
        (r"\]\]|\{\{+|\}\}+|'''+|''", ""),
        (r"</?[a-zA-Z][a-zA-Z0-9]*(?: [^<>]*)?/?>", ""),
        (r"[\u200b\u200e\u200f]", ""),
        (r"\s+", " "),
        # Brackets that a removal emptied, or left with a separator at an end. (Counts are bounded to keep a
        # line of nothing but commas from taking quadratic time.)
        (r"(?<=[(\[])(?:\s|[,;:/]|(?:or|and|also|pronounced|listen|IPA)\b(?=\s*[,;:/)\]])){1,16}", ""),
        (r"(?:\s|[,;:/]|(?<=\s)(?:or|and|also|pronounced)(?=\s*[)\]])){1,16}(?=[)\]])", ""),
        (r"\s*\(\s*[–—-]?\s*\)|\s*\[\s*\]", ""),
        (r"\s+([,;:.!?])(?=[\s)\]\"”]|$)", r"\1"),
        (r"([,;:])[,;:]{1,16}(?=\s|$)", r"\1"),
        (r"[,;:] ?\.(?=\s|$)", "."),
        (r"“\s+", "“"),
        (r"\s+”(?=\W|$)", "”"),
        (r" {2,}", " "),
        (r"^(?:[,;:.]\s+)+", ""),
    )
)  # fmt: skip


def tidy(text: str) -> str:
    """One line without leftover markup, empty brackets and blanks before punctuation."""
    for pattern, into in _TIDY:
        text = pattern.sub(into, text)
    return text.strip()


@dataclass(frozen=True)
class _Line:
    """A line of the article; `level` is a heading's, 0 for text; text is empty for a blank line."""

    text: str
    level: int = 0
    item: bool = False
    indented: bool = False


def _lines(marked: str) -> Iterator[_Line]:
    """Text with marks -> tidy lines. Lines without a letter or digit, and leftovers of tables are gone."""
    for raw in marked.split("\n"):
        if raw.startswith(_HEADING):
            yield _Line(tidy(_INNER_MARKS.sub(" ", raw[2:])), level=int(raw[1]))
            continue
        start = _LEADING_MARKS.match(raw)
        marks = start.group() if start else ""
        body = raw[len(marks) :].strip()
        if not body and not marks.strip():
            yield _Line("")
        if _TABLE_LEFTOVER.match(body):
            continue
        line = tidy(_INNER_MARKS.sub(": ", body))  # "; term : meaning"
        if any(c.isalnum() for c in line):
            item = _ITEM in marks
            yield _Line(f"- {line}" if item else line, item=item, indented=_INDENT in marks)


def _assemble(lines: Iterable[_Line], keep_headings: bool) -> tuple[str, int]:
    """Lines -> paragraphs, without the end matter; and the number of headings left out.

    A single line break does not end a paragraph. A list stands under the line that introduces it.
    """
    paragraphs: list[list[str]] = [[]]
    headings, end_level, in_list = 0, 0, False
    for line in lines:
        if line.level and (not end_level or line.level <= end_level):
            end_level = line.level if line.text.casefold().strip(" .:") in END_MATTER else 0
        if line.level and (end_level or not keep_headings):
            headings += 1
        if line.level or not line.text:
            paragraphs += [[line.text], []] if line.level and keep_headings and not end_level else [[]]
            in_list = False
        elif not end_level:
            listed = line.item or line.indented
            if in_list and not listed:
                paragraphs.append([])
            if paragraphs[-1] and not listed:
                paragraphs[-1][-1] += f" {line.text}"
            else:
                paragraphs[-1].append(line.text)
            in_list = listed
    texts = ("\n".join(lines) for lines in paragraphs)
    return "\n\n".join(text for text in texts if text), headings
