"""`pcibind list`, `add` and `remove`: all boards, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence

from pcibind.commands.system import System
from pcibind.decide.judgement import judge
from pcibind.decide.plan import resolve, select
from pcibind.model.errors import ConfigError, ExitCode, PcibindError, RecordError
from pcibind.model.evidence import Evidence
from pcibind.model.pci import Board, Function, Topology, board_path
from pcibind.model.record import Record, Resolution, Verdict, compare
from pcibind.model.report import BoardReport, BoardState, Report
from pcibind.model.request import BoardRequest, Configuration, Selector
from pcibind.read import configuration, files
from pcibind.read.files import Paths

HEADER = "# Written by `pcibind add` and `pcibind remove`; choose by hand in a file beside it.\n"
_NEXT = "no driver was touched: run `pcibind plan`, then `pcibind apply`"


def show(system: System) -> Report:
    """List every board, whether and where it is chosen, and its known users.

    Opens no device node. Raises nothing: what cannot be read is reported beside the boards.
    """
    with system.gathering() as gathering:
        topology = system.topology()
        known = Record()
        errors: list[PcibindError] = []
        chosen: dict[str, tuple[Resolution, str]] = {}
        try:
            known = files.read_record(system.paths) or known
        except RecordError as error:
            errors.append(error)
        try:
            config = configuration.parse(
                configuration.read_texts(system.paths.configuration).items()
            )
            chosen = _chosen(topology, config, known)
        except ConfigError as error:
            errors.append(error)
        otherwise = BoardState.UNKNOWN if errors else BoardState.NOT_CHOSEN
        try:
            evidence = gathering.evidence()
        except PcibindError as error:
            errors.append(error)
            evidence = Evidence()
    reports = []
    for board in topology.boards():
        recorded = known.board(board.path)
        if recorded and compare(board, recorded) is not Verdict.PRESENT:
            # Another board in its place, to which nothing is done.
            recorded = None
        resolution, where = chosen.get(board.path, (None, "on record" if recorded else ""))
        name = resolution.name if resolution else recorded.name if recorded else None
        reports.append(
            BoardReport(
                name,
                board.path,
                Selector("path", board.path),
                Verdict.PRESENT,
                BoardState.CHOSEN if where else otherwise,
                board,
                recorded,
                detail=where,
                wanted=bool(where),
                users=evidence.users(board),
            )
        )
    return Report(
        "list",
        boards=tuple(reports),
        errors=tuple(map(str, errors)),
        error_code=errors[0].exit_code if errors else ExitCode.OK,
        topology=topology,
        notes=tuple(f"cannot tell ({guard}): {why}" for guard, why in evidence.unreadable),
    )


def add(
    system: System, words: Sequence[str], *, name: str | None = None, allow: Sequence[str] = ()
) -> Report:
    """Choose the boards at these addresses or paths in `added.toml`; bind nothing.

    They are written down by path, which a renumbering of buses leaves alone. Nothing is written
    when one is refused for what it is: by the guard `class`, or for what shares its IOMMU group.
    Raises ConfigError, RecordError, OSError.
    """
    if name is not None and len(words) != 1:
        raise ConfigError(f"--name is for one board; found {len(words)}")
    try:
        name = None if name is None else configuration.parse_name(name)
    except ValueError as error:
        raise ConfigError(f"--name: {error}") from error
    with system.locked():
        topology = system.topology()
        known = files.read_record(system.paths)
        texts = _texts(system.paths)
        config = configuration.parse(texts.items())
        there = _chosen(topology, config, known)
        boards = dict.fromkeys(_board(topology, word) for word in words)
        for board in boards:
            if board.path in there:
                raise ConfigError(
                    f"board {board.path} is chosen already, at {there[board.path][1]}"
                )
        new = [BoardRequest(Selector("path", b.path), name, frozenset(allow)) for b in boards]
        texts[_file(system.paths)] = _render([*_own(system.paths, config), *new])
        # Without evidence only what the boards are is judged: apply asks the other guards.
        judged = judge(topology, Evidence(), configuration.parse(texts.items()), known)
        paths = {board.path for board in boards}
        refusals = tuple(refusal for refusal in judged.refusals if refusal.board in paths)
        notes = (_NEXT,)
        if refusals:
            notes = ("nothing was written; where a guard can be overridden, use `--allow GUARD`",)
        else:
            files.write_atomically(_file(system.paths), texts[_file(system.paths)])
        reports = [
            BoardReport.of(
                r, BoardState.REFUSED if judged.refused(r.board.path) else BoardState.CHOSEN
            )
            for r in judged.resolutions
            if r.board and r.board.path in paths
        ]
        return Report("add", "all", tuple(reports), refusals, topology=topology, notes=notes)


def remove(system: System, words: Sequence[str]) -> Report:
    """Take boards out of `added.toml`, by address, path or name; restore nothing.

    Raises ConfigError, naming the file, for a board that another one chooses; RecordError, OSError.
    """
    with system.locked():
        topology = system.topology()
        config = configuration.parse(_texts(system.paths).items())
        resolutions = resolve(topology, config, files.read_record(system.paths))
        sources = {request.selector: request.source for request in config.boards}
        own = _own(system.paths, config)
        gone: dict[Resolution, None] = {}
        for word in words:
            mine = [each for each in resolutions if _matches(each, word)]
            if not mine:
                there = ", ".join(r.name or r.selector.value for r in own) or "none"
                raise ConfigError(
                    f"no chosen board is {word!r}; {_file(system.paths)} has: {there}"
                )
            gone |= dict.fromkeys(mine)
        leaving = {each.selector for each in gone}
        if others := leaving - {request.selector for request in own}:
            where = ", ".join(sorted(f"{each} at {sources[each]}" for each in others))
            raise ConfigError(f"chosen elsewhere: {where}; remove it there")
        files.write_atomically(
            _file(system.paths), _render([each for each in own if each.selector not in leaving])
        )
        reports = [BoardReport.of(r, BoardState.NOT_CHOSEN)._replace(wanted=False) for r in gone]
        return Report("remove", "all", tuple(reports), topology=topology, notes=(_NEXT,))


def _chosen(
    topology: Topology, config: Configuration, known: Record | None
) -> dict[str, tuple[Resolution, str]]:
    """The wanted boards that are there: path -> resolution, and where it was asked for."""
    sources = {request.selector: request.source for request in config.boards}
    resolutions = resolve(topology, config, known)
    return {r.board.path: (r, sources[r.selector]) for r in resolutions if r.board}


def _board(topology: Topology, word: str) -> Board:
    try:
        selector = Selector.parse(word)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    boards = select(topology, selector)
    # A bridge may share its slot, and so its path, with endpoints.
    bridges = (f for f in topology.functions if f.is_bridge and _is(f, selector))
    if not boards and (bridge := next(bridges, None)):
        behind = ", ".join(
            b.path for b in topology.boards() if b.path.startswith(f"{bridge.path}/")
        )
        raise ConfigError(
            f"{selector} is a bridge ({bridge.model}), which stays with the host; expected one of "
            f"the boards behind it: {behind or 'none'}"
        )
    if len(boards) != 1:
        listed = ", ".join(f"{board.path} ({board.address})" for board in boards) or "none"
        raise ConfigError(f"{selector}: expected one board, found {listed}; see `pcibind list`")
    return boards[0]


def _is(function: Function, selector: Selector) -> bool:
    return selector.value in (str(function.address), function.path, board_path(function.path))


def _matches(resolution: Resolution, word: str) -> bool:
    """Whether a word is the name, the path, the selector or an address of a wanted board."""
    board, recorded = resolution.board, resolution.recorded
    names = {resolution.name, resolution.selector.value, recorded.path if recorded else None}
    try:
        value = Selector.parse(word).value
    except ValueError:
        value = word
    return word in names or value in names or (board is not None and board.is_at(word))


def _file(paths: Paths) -> str:
    return f"{paths.configuration}/added.toml"


def _texts(paths: Paths) -> dict[str, str]:
    """All files of the configuration; raises ConfigError when added.toml is not ours."""
    texts = configuration.read_texts(paths.configuration)
    if not texts.get(_file(paths), HEADER).startswith(HEADER):
        raise ConfigError(
            f"{_file(paths)} was not written by `pcibind add`: expected {HEADER.strip()!r} as its "
            "first line; give it another name"
        )
    return texts


def _own(paths: Paths, config: Configuration) -> list[BoardRequest]:
    """The requests of added.toml. A source is FILE:LINE, or FILE where the line is not found."""
    own = _file(paths)
    return [
        each
        for each in config.boards
        if each.source.rpartition(":")[0] == own or each.source == own
    ]


def _render(requests: Sequence[BoardRequest]) -> str:
    return HEADER + "".join(map(configuration.table, requests))
