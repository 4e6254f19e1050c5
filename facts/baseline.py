"""What a host was like before its first deploy, as that deploy recorded it on the host."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase

from facts import state_directory

_COMMAND = (
    state_directory.CHOSEN
    + r"""
echo begin; echo "place $directory"
[ "$directory" = "$current" ] || echo former
[ "$(id -u)" = 0 ] && echo privileged
for path in "$@"; do if [ -e "$path" ] || [ -L "$path" ]; then echo "trace $path"; fi; done
if [ -e "$directory/before.tar" ]; then echo archive; tar -tf "$directory/before.tar" | sed 's|^|archived /|'; fi
if [ -e "$directory/arguments" ]; then echo arguments; sed 's|^|argument |' "$directory/arguments"; fi
[ -e "$directory/renaming" ] && echo renaming
[ -f "$directory/deploy" ] && echo "deployed $(head -n1 "$directory/deploy")"
if [ -e "$directory/before.json" ]; then echo record; cat "$directory/before.json"; fi
"""
)


@dataclass(frozen=True, slots=True)
class FunctionBaseline:
    """One PCI function as it was: its bridge-relative path, what it is, its driver and its override."""

    path: str
    model: str
    driver: str | None
    driver_override: str | None


@dataclass(frozen=True, slots=True)
class Baseline:
    """A host before its first deploy.

    ``archived`` are the files that were kept, ``shared_directories`` the directories for files of several packages that
    it had (``None`` where that is not recorded), and ``auto_update_timer`` is systemd's state of Podman's timer.
    ``arguments`` are the kernel arguments that deploys set since (``None``: not recorded). ``directory`` is where the
    record lies. ``is_former``: that is the directory of earlier versions, which had other names for some of the files,
    and only they were here. ``renaming``: a deploy has begun to move the host on to today's names of its files, and has
    not ended it.
    """

    command_line: tuple[str, ...]
    configured: tuple[tuple[str, ...], ...]
    system_state: str
    functions: tuple[FunctionBaseline, ...]
    archived: frozenset[str] = frozenset()
    shared_directories: frozenset[str] | None = None
    auto_update_timer: str = ""
    arguments: tuple[str, ...] | None = None
    directory: str = ""
    is_former: bool = False
    renaming: bool = False

    @property
    def archive(self) -> str:
        """The files that the host had before, in an archive."""
        return f"{self.directory}/before.tar"

    def made(self, directory: str) -> bool:
        """Whether a deploy made a shared directory that the host did not have."""
        return self.shared_directories is not None and directory not in self.shared_directories


@dataclass(frozen=True, slots=True)
class DeployRemains:
    """What deploys left on a host. ``traces`` are the given paths that exist.

    ``damaged`` says why the record cannot be parsed, and is empty otherwise. ``deployed`` is the role of the host:
    ``node``, ``gpu_host``, or empty where none is recorded.
    """

    privileged: bool
    traces: tuple[str, ...]
    archive: bool
    past: Baseline | None
    damaged: str = ""
    deployed: str = ""

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        if self.past is not None:
            shared = self.past.shared_directories
            document["past"]["archived"] = sorted(self.past.archived)
            document["past"]["shared_directories"] = None if shared is None else sorted(shared)
        return document


def parse(output: list[str]) -> DeployRemains:
    """What the command printed."""
    lines = iter(output)
    words: dict[str, list[str]] = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        words.setdefault(kind, []).append(rest)
        if kind == "record":
            break
    past, damaged = None, ""
    try:
        past = _past(json.loads("\n".join(lines)), words) if "record" in words else None
    except (ValueError, TypeError) as error:
        damaged = str(error)
    except KeyError as error:
        damaged = f"{error} is missing"
    return DeployRemains(
        "privileged" in words,
        tuple(words.get("trace", ())),
        "archive" in words,
        past,
        damaged,
        _first_value(words, "deployed"),
    )


def _first_value(words: dict[str, list[str]], kind: str) -> str:
    return next(iter(words.get(kind, ())), "")


def _past(record: dict[str, Any], words: dict[str, list[str]]) -> Baseline:
    if record["version"] != 1:
        raise ValueError(f"its version is {record['version']!r}, expected 1")
    shared = record.get("shared_directories")
    return Baseline(
        command_line=tuple(record["kernel_command_line"]),
        configured=tuple(tuple(line) for line in record["configured_command_lines"]),
        system_state=record["system_state"],
        functions=tuple(
            FunctionBaseline(each["path"], each["model"], each["driver"], each["driver_override"])
            for each in record["functions"]
        ),
        archived=frozenset(words.get("archived", ())),
        shared_directories=None if shared is None else frozenset(shared),
        auto_update_timer=record.get("auto_update_timer", ""),
        arguments=tuple(words.get("argument", ())) if "arguments" in words else None,
        directory=words["place"][0],
        is_former="former" in words,
        renaming="renaming" in words,
    )


class BaselineRecord(FactBase[DeployRemains | None]):
    """The record of the host as it was, and which of ``traces`` (paths) deploys left on it.

    ``directories`` are those of the record: today's, and the one of earlier versions.
    """

    def command(self, directories: tuple[str, str], traces: tuple[str, ...] = ()) -> str:
        return f"sh -c {quote(_COMMAND)} before {' '.join(map(quote, (*directories, *traces)))}"

    def process(self, output: list[str]) -> DeployRemains:
        return parse(output)


class ArchivedFile(FactBase[str]):
    """Whether a file is as an archive has it (``same``: content, owner, mode; or where a link leads), or ``different``.

    Its time may be another: a file that was only touched is what it was. Where there is no ``archive``, the one at
    ``former`` counts.
    """

    @staticmethod
    def default() -> str:
        return "different"

    def command(self, archive: str, former: str, path: str) -> str:
        chosen = f'archive={quote(archive)}; [ -e "$archive" ] || archive={quote(former)}'
        compare = f'LC_ALL=C tar -C / --compare -f "$archive" {quote(path.lstrip("/"))} 2>&1'
        differs = f"{compare} | grep -v ': Mod time differs$' >/dev/null"
        return f"{chosen}; if {differs}; then echo different; else echo same; fi"

    def process(self, output: list[str]) -> str:
        return output[0].strip()
