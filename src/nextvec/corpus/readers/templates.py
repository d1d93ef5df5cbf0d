"""The few wiki templates that stand for a piece of the sentence: without them "from the Greek , meaning"."""

from __future__ import annotations

from collections.abc import Callable
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
    joins = {
        "-": "–",
        "–": "–",
        "to": " to ",
        "and": " and ",
        "or": " or ",
        "by": " by ",
        "x": " × ",
        "+": " + ",
    }
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
