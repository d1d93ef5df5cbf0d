"""Remedies name what exists: every flag, verb, route and configuration key in the messages of the source."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_type_hints

import pytest
from cyclopts import App

import nextvec.serving.routes
from nextvec.cli.main import VERBS, app

SOURCE = Path(nextvec.__file__).parent
HOLE = "\N{OBJECT REPLACEMENT CHARACTER}"
FLAG = re.compile(rf"(?<![\w-])--[a-z][a-z0-9-]*(?![\w{HOLE}-])(?!\.)")
VERB = re.compile(r"\bnextvec ([a-z][a-z-]*)(?: ([a-z0-9]+))?")
ROUTE = re.compile(rf"\b(GET|POST|DELETE) (/[\w/{{}}{HOLE}-]*)")
KEY = re.compile(r"\b(data|optim|loss|model|runtime)\.([a-z_]+)(?!\w)")
# Not ours: the arguments of programs that nextvec starts or describes.
FOREIGN = {
    *("--no-deps", "--help", "--version"),
    *("--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"),  # torchrun's
}
# Words for people after the name, as in "a folder that nextvec saved a model in".
PROSE = {"package", "model", "saved"}


def strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text a node can give, with holes where values go in."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else HOLE for v in node.values]
        yield node.lineno, "".join(map(str, parts))
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def messages() -> Iterator[tuple[str, str]]:
    """Place and text of every string of the source but docstrings."""
    for file in sorted(SOURCE.rglob("*.py")):
        if "vec2text" in file.parts:
            continue  # the worker and the setup of another program's environment
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
        yield from ((f"{file.relative_to(SOURCE)}:{line}", text) for line, text in strings(tree))


def remedies() -> Iterator[tuple[str, str]]:
    """Place and text of every `remedy`: given by name, or put into a variable of that name first."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found: list[ast.AST] = []
            if isinstance(node, ast.Call):
                found = [k.value for k in node.keywords if k.arg == "remedy"]
            elif isinstance(node, (ast.Assign, ast.AugAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any("remedy" in ast.unparse(t).lower() for t in targets):
                    found = [node.value]
            elif isinstance(node, ast.FunctionDef) and node.name == "_remedy":
                found = [node]
            for each in found:
                yield from ((f"{file.relative_to(SOURCE)}:{line}", text) for line, text in strings(each))


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def commands() -> dict[str, App]:
    """`verb` and `verb subverb` -> its command."""
    found = {}
    for verb in VERBS:
        below = [name for name in app[verb] if not name.startswith("-")]
        found |= {f"{verb} {name}": app[verb][name] for name in below} if below else {verb: app[verb]}
    return found


def flags(command: App) -> set[str]:
    return {n for a in command.assemble_argument_collection(parse_docstring=False) for n in a.names}


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return {name: flags(command) for name, command in commands().items()}


def test_every_flag_in_a_message_is_a_flag_of_some_verb(known: dict[str, set[str]]) -> None:
    every = set().union(*known.values()) | FOREIGN
    wrong = [(at, flag) for at, text in messages() for flag in FLAG.findall(text) if flag not in every]
    assert wrong == []


def test_every_verb_in_a_message_exists_and_has_the_flags_that_follow_it(known: dict[str, set[str]]) -> None:
    wrong, seen = [], 0
    for at, text in messages():
        found = list(VERB.finditer(text))
        for match, after in pairwise([*found, None]):
            assert match is not None
            verb, below = match.groups()
            if verb in PROSE:
                continue
            names = [n for n in known if n == verb or n == f"{verb} {below}"]
            if not names and verb not in VERBS:
                wrong.append((at, match.group()))
                continue
            names = names or [n for n in known if n.startswith(f"{verb} ")]
            rest = re.split(r"[;,(`]|\bor\b", text[match.end() : after.start() if after else None])[0]
            seen += 1
            wrong += [
                (at, verb, flag) for flag in FLAG.findall(rest) if not any(flag in known[n] for n in names)
            ]
    assert wrong == []
    assert seen > 40


def test_the_page_of_the_brief_names_verbs_and_flags_that_exist(known: dict[str, set[str]]) -> None:
    page = (SOURCE.parents[1] / "docs" / "brief.md").read_text(encoding="utf-8")
    every, spoken = set().union(*known.values()), []
    for code in re.findall(r"`([^`]+)`", page):
        verb = VERB.match(code)
        names = [n for n in known if verb and n in (verb[1], f"{verb[1]} {verb[2]}")]
        assert names or not verb, code
        there = set().union(*(known[n] for n in names)) if names else every
        spoken += [(code, flag) for flag in FLAG.findall(code) if flag not in there]
    assert spoken == []


def test_every_route_in_a_message_is_one_of_the_server() -> None:
    routes = {
        (method, re.sub(r"\{\w+\}", HOLE, route.path))
        for module in pkgutil.iter_modules(nextvec.serving.routes.__path__)
        for route in importlib.import_module(f"nextvec.serving.routes.{module.name}").router.routes
        for method in route.methods
    }
    assert ("GET", "/v1/models") in routes
    wrong = [
        (at, *found)
        for at, text in messages()
        for found in ROUTE.findall(re.sub(r"\{\w+\}", HOLE, text))
        if found not in routes
    ]
    assert wrong == []


def test_every_key_of_the_configuration_in_a_remedy_exists() -> None:
    from nextvec.decoding.inverter import InverterConfig
    from nextvec.training.config import TrainConfig

    keys: dict[str, set[str]] = {}
    for config in (TrainConfig, InverterConfig):
        for name, kind in get_type_hints(config).items():
            if is_dataclass(kind):
                keys.setdefault(name, set()).update(f.name for f in fields(kind))
    found = [(at, match.groups()) for at, text in remedies() for match in KEY.finditer(text)]
    assert len(found) > 10
    assert [(at, key) for at, key in found if key[1] not in keys[key[0]]] == []


def test_no_remedy_names_an_argument_of_the_library_as_if_it_were_a_flag() -> None:
    found = list(remedies())
    assert len(found) > 500
    spoken = re.compile(r"(?<!-)\b(?:set|option|check) ((?!loss\.|data\.|model\.|optim\.)[a-z]+_[a-z_]+)\b")
    assert [(at, m.group()) for at, text in found for m in spoken.finditer(text)] == []
