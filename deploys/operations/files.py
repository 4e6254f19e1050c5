"""Configuration files, pushed by pyinfra from templates whose paths are those of the files."""

from __future__ import annotations

import difflib
from collections.abc import Generator
from hashlib import sha256
from io import StringIO
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pyinfra import host, logger
from pyinfra.api import FileUploadCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.context import ctx_state
from pyinfra.facts.files import FileContents

from deploys import scripts
from deploys.manifest import ARCHIVE, TEMPLATES, ManagedFile
from deploys.operations.planning import is_planning
from facts.file import FileState, PlainFiles

_TEMPLATES = Environment(
    loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)


class Files:
    """The files of root's that one step writes on one host, asked for together.

    pyinfra's own operation runs three commands for each file: its state, its directory, and its content. With 18 files
    these were most of the commands of a run that changes nothing.
    """

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._states: dict[str, FileState] | None = None

    def template(self, file: ManagedFile, **variables: Any) -> OperationMeta:
        """Write a file from the template of its path."""
        return self.text(file, _TEMPLATES.get_template(f"{file.path.lstrip('/')}.j2").render(variables))

    def text(self, file: ManagedFile, content: str) -> OperationMeta:
        """Write a file with this content."""
        self._paths.append(file.path)
        return write_file(name=f"Write {file.path}", path=file.path, content=content, mode=file.mode, among=self)

    def state(self, path: str) -> FileState | None:
        """The current state of the file. A plan reads one file at a time, since it does not know the next ones."""
        if is_planning():
            return host.get_fact(PlainFiles, paths=(path,)).get(path)
        if self._states is None:
            self._states = host.get_fact(PlainFiles, paths=tuple(self._paths))
        return self._states.get(path)


@operation()
def write_file(path: str, content: str, mode: str, among: Files) -> Generator[PyinfraCommand | str, None, None]:
    """Write a file of root's. The target of a link in its place is left alone, and the undo restores the link.

    + path: where it lands
    + content: text
    + mode: octal digits
    + among: the step's files, this one among them
    """
    if among.state(path) == FileState(mode, "root:root", sha256(content.encode()).hexdigest()):
        host.noop(f"file {path} is up to date")
        return
    if ctx_state.get().config.DIFF and (is_planning() or not ctx_state.get().should_check_for_changes()):
        _show_difference(path, content)
    yield scripts.shell("make_room.sh", path, ARCHIVE)
    # Hidden, and with a suffix of its own, so that no program that reads the directory uses it: Quadlet goes by the
    # suffix alone.
    upload = upload_path(path)
    yield FileUploadCommand(StringIO(content), upload, remote_temp_filename=host.get_temp_filename(upload))
    yield scripts.shell("put_file.sh", mode, path, upload)


def upload_path(path: str) -> str:
    """The path to which a file is uploaded before it is renamed."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.gpu-host-new"


def _show_difference(path: str, content: str) -> None:
    """Print the difference, for pyinfra's --diff."""
    current = host.get_fact(FileContents, path=path) or []
    host.log(f"Will change {path}", logger.info)
    for line in difflib.unified_diff(current, content.splitlines(), lineterm="", n=1):
        logger.info(f"  {line}")
