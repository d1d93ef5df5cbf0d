"""Templates: how what we found becomes a page."""

from __future__ import annotations

import re

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#&$])")


def render(template: str, **values: object) -> str:
    """A template of `nextvec.reporting.templates`, filled in.

    In pages of HTML everything is escaped. Markdown has no such rule that holds everywhere, so there what
    comes from outside takes the filter `plain`.
    """
    environment = Environment(
        loader=PackageLoader("nextvec.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(values)


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line, in a cell of a table too."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))
