"""Configuration files, pushed by pyinfra from templates that lie as the files land."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

from facts.file import PlainFile, State

TEMPLATES = Path(__file__).parent / "templates"

_TEMPLATES = Environment(
    loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)


@operation()
def written(path: str, content: str, mode: str) -> Generator[PyinfraCommand | str, None, None]:
    """A file of root's with this content. One question tells whether it is there as it should be.

    pyinfra's own operation asks three: what is there, what its directory is, and what is in it. With a dozen and a half
    files these were half of all that a run with nothing to do asks of a host.

    + path: where it lands
    + content: text
    + mode: octal digits
    """
    if host.get_fact(PlainFile, path=path) == State(mode, "root:root", sha256(content.encode()).hexdigest()):
        host.noop(f"file {path} is already there as it should be")
        return
    yield from files.put._inner(
        src=StringIO(content), dest=path, user="root", group="root", mode=mode, create_remote_dir=True
    )


def template(path: str, mode: str = "644", **variables: Any) -> OperationMeta:
    """Write ``path`` on the node from the template of the same path."""
    return text(path, _TEMPLATES.get_template(f"{path.lstrip('/')}.j2").render(variables), mode)


def text(path: str, content: str, mode: str = "644") -> OperationMeta:
    """Write ``path`` on the node with this content."""
    return written(name=f"Write {path}", path=path, content=content, mode=mode)
