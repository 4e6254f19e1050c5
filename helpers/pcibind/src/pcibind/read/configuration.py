"""Which boards are wanted: the TOML files of /etc/pcibind, read as a whole."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable

from pcibind.model.errors import ConfigError, describe_os_error
from pcibind.model.request import (
    OVERRIDABLE_GUARDS,
    SELECTOR_KINDS,
    BoardRequest,
    Configuration,
    Selector,
)
from pcibind.model.values import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pcibind.model.request import RequireBoards

_SAVE = "save the file as UTF-8"

_NAME = re.compile(r"[\w.-]+")
_EXAMPLES = {"address": "0000:01:00.0", "path": "0000:00/01.0/00", "model": "10de:2684"}
# At the end of what tomllib says.
_AT = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.S)


def read(directory: str) -> Configuration:
    """Read every *.toml of a directory, in the order of the names.

    Raises ConfigError, naming file, line and expectation, when there is no file, when one cannot
    be read, and when they contradict each other.
    """
    texts = read_texts(directory)
    if not texts:
        # Nothing written is not the same as nothing wanted: that takes a file without boards.
        raise ConfigError(
            f"{directory}: no *.toml file; expected at least one with [[board]]; see "
            "`pcibind list` and `pcibind add`"
        )
    return parse(texts.items())


def read_texts(directory: str) -> dict[str, str]:
    """The content of every TOML file, by its path; raises ConfigError for what cannot be read."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(
            f"{directory}: expected TOML files there: {describe_os_error(error)}"
        ) from error
    texts = {}
    for name in names:
        # Hidden ones are an editor's locks and copies.
        if not name.endswith(".toml") or name.startswith("."):
            continue
        path = os.path.join(directory, name)
        if os.path.exists(path) and not os.path.isfile(path):
            # To open a pipe may take for ever, and a device may have no end.
            raise ConfigError(
                f"{path}: cannot be read: expected a file, found another kind; move it elsewhere"
            )
        try:
            with open(path, "rb") as file:
                texts[path] = _decode(path, file.read())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {describe_os_error(error)}") from error
    return texts


def _place(name: str, message: str) -> str:
    """A message of tomllib with its place in the form FILE:LINE:COLUMN, where it tells that."""
    match = _AT.fullmatch(message)
    return f"{name}:{match[2]}:{match[3]}: {match[1]}" if match else f"{name}: {message}"


def _decode(path: str, content: bytes) -> str:
    """The text of a TOML file, which is UTF-8. A byte order mark of an editor is left out."""
    # Text in UTF-16 may be valid UTF-8; its zero bytes are in no TOML file.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ConfigError(f"{path}: found UTF-16 or binary data, expected text in UTF-8; {_SAVE}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise ConfigError(f"{path}: found {byte}, expected text in UTF-8; {_SAVE}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(texts: Iterable[tuple[str, str]]) -> Configuration:
    """Read (file name, content) pairs as one configuration; raises ConfigError as `read` does."""
    # Not needed at boot, and a third of the start-up time.
    import tomllib

    requests: list[BoardRequest] = []
    require: tuple[RequireBoards, str] | None = None
    for name, text in texts:
        # Of an editor, as in `read_texts`: a deploy reads the files of a host by itself.
        text = text.removeprefix("\ufeff")
        file = _File(name, text)
        try:
            document: dict[str, object] = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            # Also what the format allows, but Python does not: too many digits or brackets.
            raise ConfigError(_place(name, str(error))) from error
        for key in document:
            if key not in ("require_boards", "board"):
                raise file.error(key, "unknown key; expected require_boards or [[board]]")
        if "require_boards" in document:
            wish = document["require_boards"]
            if wish not in ("all", "any"):
                raise file.error("require_boards", f'is {wish!r}; expected "all" or "any"')
            if require is not None and require[0] != wish:
                raise file.error(
                    "require_boards", f"is {wish!r}, but {require[0]!r} in {require[1]}"
                )
            require = (wish, name)
        tables = document.get("board", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise file.error("board", "expected an array of tables, each headed [[board]]")
        requests.extend(_request(file, index, table) for index, table in enumerate(tables))
    _refuse_repetition(requests)
    return Configuration(tuple(requests), require[0] if require else "all")


def parse_name(value: object) -> str:
    """Check the name of a board; raise ValueError for anything else."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r}; expected letters, digits, '.', '_' and '-'")
    return value


def render(*boards: BoardRequest, require_boards: RequireBoards = "all") -> str:
    """The TOML text of a configuration; `parse` reads the same back."""
    head = f'# Boards that pcibind hands to vfio-pci.\nrequire_boards = "{require_boards}"\n'
    return head + "".join(map(table, boards))


def table(board: BoardRequest) -> str:
    """A `[[board]]` of a file."""
    lines = ["", "[[board]]"]
    if board.name is not None:
        lines.append(f'name = "{board.name}"')
    lines.append(f'{board.selector.kind} = "{board.selector.value}"')
    if board.allow:
        lines.append("allow = [" + ", ".join(f'"{guard}"' for guard in sorted(board.allow)) + "]")
    return "\n".join(lines) + "\n"


class _File(NamedTuple):
    name: str
    text: str

    def line(self, key: str | None, board: int | None = None) -> int | None:
        """The line of a key at the top, or of the board with that index; None if not found.

        tomllib keeps no positions. Only messages depend on this.
        """
        seen = -1
        header: int | None = None
        for number, line in enumerate(self.text.splitlines(), 1):
            if re.match(r"\s*\[\[\s*board\s*\]\]", line):
                seen += 1
                if seen == board:
                    header = number
            inside = seen == -1 if board is None else seen == board
            if key is not None and re.match(rf"\s*\[+\s*{re.escape(key)}\s*\]", line):
                header = header or number
            if key is not None and inside and re.match(rf'\s*"?{re.escape(key)}"?\s*[=.]', line):
                return number
        return header

    def error(self, key: str | None, message: str, board: int | None = None) -> ConfigError:
        line = self.line(key, board)
        where = self.name if line is None else f"{self.name}:{line}"
        return ConfigError(f"{where}: {message}" if key is None else f"{where}: {key}: {message}")


def _request(file: _File, index: int, table: dict[str, object]) -> BoardRequest:
    for key in table:
        if key not in ("name", "allow", *SELECTOR_KINDS):
            raise file.error(
                key, "unknown key; expected name, allow, and one of address, path, model", index
            )
    chosen = [kind for kind in SELECTOR_KINDS if kind in table]
    if len(chosen) != 1:
        kinds = " and ".join(chosen) or "none"
        raise file.error(
            None, f"[[board]] has {kinds}; expected exactly one of address, path, model", index
        )
    kind = chosen[0]
    value = table[kind]
    try:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text in quotes, such as {_EXAMPLES[kind]!r}")
        selector = Selector.of(kind, value)
    except ValueError as error:
        raise file.error(kind, str(error), index) from error
    try:
        name = parse_name(table["name"]) if "name" in table else None
    except ValueError as error:
        raise file.error("name", str(error), index) from error
    allow = table.get("allow", [])
    if not isinstance(allow, list):
        raise file.error("allow", f"{allow!r}; expected a list of guard names", index)
    for guard in allow:
        if guard not in OVERRIDABLE_GUARDS:
            raise file.error(
                "allow", f"{guard!r}; expected some of {', '.join(OVERRIDABLE_GUARDS)}", index
            )
    line = file.line(None, index)
    source = file.name if line is None else f"{file.name}:{line}"
    return BoardRequest(selector, name, frozenset(allow), source)


def _refuse_repetition(requests: list[BoardRequest]) -> None:
    selectors: dict[Selector, str] = {}
    names: dict[str, str] = {}
    for request in requests:
        if request.selector in selectors:
            raise ConfigError(
                f"{request.source}: {request.selector} is also chosen at "
                f"{selectors[request.selector]}; expected each board once"
            )
        selectors[request.selector] = request.source
        if request.name is not None:
            if request.name in names:
                raise ConfigError(
                    f"{request.source}: the name {request.name!r} is also given at "
                    f"{names[request.name]}; expected each name once"
                )
            names[request.name] = request.source
