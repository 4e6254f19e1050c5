"""The scripts that an operator runs, read as text: their steps in order, and the rows that a table can have."""

from __future__ import annotations

import ast
import functools
import re

from tests.unit.documents import ROOT, strings

_FEWEST_LETTERS = 4


@functools.cache
def _names() -> dict[str, str]:
    """Return the text in `@step("text")` for each function that has one."""
    functions = [
        node
        for file in (ROOT / "deploys").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.FunctionDef)
    ]
    return {each.name: text for each in functions for one in each.decorator_list if (text := _text(one))}


def _text(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(func=ast.Name(id="step"), args=[ast.Constant(value=str(text)), *_]):
            return text
    return None


def steps(script: str) -> list[str]:
    """Return the names of the steps that a script calls, in their order, as the operator sees them.

    A function that both runbooks share stands for the steps that it calls.
    """
    tree = ast.parse((ROOT / script).read_bytes())
    shared = {each.name: each for each in _shared().body if isinstance(each, ast.FunctionDef)}
    names = []
    for name in _called(tree):
        names += [name] if name in _names() else _called(shared[name]) if name in shared else []
    return [_names()[name] for name in names if name in _names()]


def _shared() -> ast.Module:
    return ast.parse((ROOT / "deploys/steps/gpu_host.py").read_bytes())


def _called(tree: ast.AST) -> list[str]:
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node.func.id for node in sorted(called, key=lambda node: node.lineno) if isinstance(node.func, ast.Name)]


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Return the strings of the programs in which something is filled in, but enough is written out."""
    written = [each for each in strings() if "\0" in each and sum(map(str.isalpha, each)) >= _FEWEST_LETTERS]
    return tuple(re.compile(".+".join(map(re.escape, each.split("\0")))) for each in written)


def is_row(name: str) -> bool:
    """Return whether a program has a text by which a row of a table may be called."""
    return name in strings() or any(each.fullmatch(name) for each in _patterns())
