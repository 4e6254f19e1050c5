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

from deploys.planning import is_planning
from facts.file import PlainFiles, State

TEMPLATES = Path(__file__).parent / "templates"

_TEMPLATES = Environment(
    loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)


class Files:
    """The files of root's that one step writes on one host, asked for together.

    pyinfra's own operation asks three questions a file: what is there, what its directory is, and what is in it. With
    a dozen and a half files these were most of what a run with nothing to do asks of a host.
    """

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._found: dict[str, State] | None = None

    def template(self, path: str, mode: str = "644", **variables: Any) -> OperationMeta:
        """Write ``path`` on the node from the template of the same path."""
        return self.text(path, _TEMPLATES.get_template(f"{path.lstrip('/')}.j2").render(variables), mode)

    def text(self, path: str, content: str, mode: str = "644") -> OperationMeta:
        """Write ``path`` on the node with this content; ``mode`` is in octal digits."""
        self._paths.append(path)
        return written(name=f"Write {path}", path=path, content=content, mode=mode, among=self)

    def state(self, path: str) -> State | None:
        """What is there now. A plan asks for one file at a time, as it knows of no later one."""
        if is_planning():
            return host.get_fact(PlainFiles, paths=(path,)).get(path)
        if self._found is None:
            self._found = host.get_fact(PlainFiles, paths=tuple(self._paths))
        return self._found.get(path)


@operation()
def written(path: str, content: str, mode: str, among: Files) -> Generator[PyinfraCommand | str, None, None]:
    """A file of root's with this content.

    + path: where it lands
    + content: text
    + mode: octal digits
    + among: the step's files, this one among them
    """
    if among.state(path) == State(mode, "root:root", sha256(content.encode()).hexdigest()):
        host.noop(f"file {path} is already there as it should be")
        return
    yield from files.put._inner(
        src=StringIO(content), dest=path, user="root", group="root", mode=mode, create_remote_dir=True
    )
