"""The pages of the documentation, as tests read them: links, code, tables, and the strings of the programs."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    """Return every page, those of the helper's own documentation among them."""
    tops = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    below = [path for folder in ("docs", "examples", "helpers") for path in sorted((ROOT / folder).rglob("*.md"))]
    return [*tops, *below, ROOT / "tests/lab/containers/README.md"]


@functools.cache
def text(page: Path | str) -> str:
    """Return a page; a relative name is one from the project's root."""
    return (ROOT / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """Return what stands below a heading, with the headings below it. Raises ValueError when there is none."""
    whole = text(page)
    start = re.search(rf"^(#+) {re.escape(heading)}$", whole, re.MULTILINE)
    if start is None:
        raise ValueError(f"{page} has no heading {heading!r}")
    rest = whole[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the files that a page links to, each with the anchor or an empty text. Pictures are among them."""
    targets = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            targets.append(((page.parent / path).resolve() if path else page, anchor))
    return targets


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as a forge makes them."""
    prose = _FENCED.sub("", text(page))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


def code(page: Path) -> Iterator[str]:
    """Yield what a page shows as code: inline, in fences, and indented by four blanks or more."""
    for _, block in _FENCED.findall(text(page)):
        yield from block.splitlines()
    prose = _FENCED.sub("", text(page))
    for line in prose.splitlines():
        if re.match(r" {4}\S", line):
            yield line.strip()
    yield from spans(prose)


def spans(of: str) -> list[str]:
    """Return the inline code of a text."""
    return re.findall(r"`([^`\n]+)`", of)


def blocks(of: str, language: str = "") -> list[list[str]]:
    """Return the lines of each fenced block of a language in a text."""
    return [block.splitlines() for kind, block in _FENCED.findall(of) if kind == language]


def rows(of: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without their heads."""
    cells: list[list[str]] = []
    for line in of.splitlines():
        if line.startswith("|---"):
            cells.pop()
        elif line.startswith("|"):
            cells.append([cell.strip() for cell in line.strip("|").split("|")])
    return cells


@functools.cache
def strings() -> tuple[str, ...]:
    """Return every string of the programs that an operator runs; a NUL stands for what is filled in."""
    tops = (ROOT / top for top in ("deploys", "facts", "inventories"))
    texts = []
    for file in (ROOT / "config.py", *(path for top in tops for path in top.rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else "\0" for each in node.values]
                texts.append("".join(str(part) for part in parts))
    return tuple(texts)


def is_printed(sentence: str) -> bool:
    """Return whether the programs can print a sentence; capitals, digits and an ellipsis in it stand for other text."""
    parts = re.split(r"…|\b[A-Z]+\b|[\"'(),;:\d]", sentence)
    return all(_is_printed(part.split()) for part in parts)


def _is_printed(words: list[str]) -> bool:
    """Return whether the words stand in one string, or their two halves in one string each."""
    halves = ((" ".join(words[:number]), " ".join(words[number:])) for number in range(max(1, len(words))))
    return any(all(any(half in each for each in strings()) for half in pair) for pair in halves)
