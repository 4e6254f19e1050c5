"""What changed on a host since its state was kept, in words.

The kept state is one JSON file a host, for an operator to commit: of the document's host without what changes by itself
(times, space left, link speeds), and without judgements. Everything here is pure but ``keep`` and ``read``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploys.assessment.status_document import HostStatus
from deploys.settings import SettingsError

VERSION = "gevulot-kept/1"

_FUNCTION_KEYS = (
    *("address", "path", "vendor", "device", "subsystem_vendor", "subsystem_device", "class"),
    *("driver", "driver_override", "iommu_group", "numa_node", "slot", "device_name"),
)
_IDENTITY = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
_FUNCTION_VALUES = {"driver": "driver", "driver_override": "driver override", "numa_node": "NUMA node"}
# Where a value of the document's is, and what it is called.
_VALUES = (
    ("platform.name", "the distribution"),
    ("platform.kernel", "the kernel"),
    ("platform.cores", "the number of cores"),
    ("iommu.on", "whether the IOMMU is on"),
    ("kernel_arguments.live", "whether the kernel runs with its arguments"),
    ("kernel_arguments.configured", "whether the next boot has them"),
    ("podman", "Podman"),
    ("database.release", "the database's release"),
    ("database.kind", "the database"),
    ("migration", "the migration's result"),
    ("node.unit", "gevulot-node.service"),
    ("image.reference", "the image's reference"),
    ("image.digest", "the image"),
    ("key.state", "the node's key"),
    ("key.public", "the node's public key"),
)


class KeptStateError(SettingsError):
    """A kept state that cannot be used. The text names the file and the next step."""


def kept(host: HostStatus) -> dict[str, Any]:
    """What of a host's state is worth keeping, as JSON."""
    document = host.to_json()
    values: dict[str, Any] = {}
    for place, _ in _VALUES:
        part, _, name = place.partition(".")
        if not name:
            values[part] = document[part]
        elif document[part] is not None:
            values.setdefault(part, {})[name] = document[part][name]
    boards = host.boards.list if host.boards else ()
    functions = (document["topology"] or {}).get("functions", [])
    return {
        "schema": VERSION,
        "name": host.name,
        **values,
        "boards": [{"name": each.name, "path": each.path, "state": each.state} for each in boards],
        "functions": [{key: function[key] for key in _FUNCTION_KEYS} for function in functions],
    }


def keep(directory: Path, host: HostStatus) -> bool:
    """Write a host's state into a directory, atomically; say whether it was another. Raises OSError."""
    text = json.dumps(kept(host), indent=1, sort_keys=True) + "\n"
    target = _file(directory, host.name)
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(target)
    return True


def read(directory: Path, name: str) -> dict[str, Any] | None:
    """A host's kept state, or None when none was kept. Raises KeptStateError."""
    path = _file(directory, name)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise KeptStateError(f"{path}: cannot be read: {error}; restore it from git, or remove it") from None
    if not isinstance(state, dict) or state.get("schema") != VERSION or not isinstance(state.get("functions"), list):
        raise KeptStateError(f"{path}: is no state of schema {VERSION}; remove it, and keep the state anew")
    return state


def _file(directory: Path, name: str) -> Path:
    # A host may be called by a connector and a path: @ssh/host.
    return directory / f"{quote(name, safe='@')}.json"


def changes(old: Mapping[str, Any], new: Mapping[str, Any], *, whole: bool = True) -> tuple[str, ...]:
    """What differs between two states as ``kept`` makes them, a sentence each.

    When not the ``whole`` topology could be read, an override that is missing is none that was taken away.
    """
    keys = _FUNCTION_VALUES if whole else {key: _FUNCTION_VALUES[key] for key in ("driver", "numa_node")}
    return (*_values(old, new), *_board_changes(old, new, keys))


def _values(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for place, name in _VALUES:
        before, now = _at(old, place), _at(new, place)
        # What is not known now has not changed as far as anybody knows.
        if now not in (None, "unknown") and before != now:
            yield f"{name} is {_shown(now)}, was {_shown(before)}"


def _at(state: Mapping[str, Any], place: str) -> Any:
    value: Any = state
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _board_changes(old: Mapping[str, Any], new: Mapping[str, Any], keys: Mapping[str, str]) -> Iterator[str]:
    before, now = _by_place(old), _by_place(new)
    labels = {each["path"]: each["name"] for state in (old, new) for each in state["boards"] if each["name"]}
    gone = [place for place in before if place not in now or _identity(before[place]) != _identity(now[place])]
    come = [place for place in now if place not in before or _identity(before[place]) != _identity(now[place])]
    for place in gone:
        label = f"{_kind(before[place])} {labels.get(place) or _model(before[place])}"
        like = [other for other in come if _identity(now[other]) == _identity(before[place])]
        if like:
            come.remove(like[0])
            yield f"{label} moved from {_where(before[place])} to {_where(now[like[0]])}"
            yield from _function_changes(before[place], now[like[0]], keys)
        else:
            yield f"{label} at {_where(before[place])} is gone"
    for place in come:
        yield f"{_kind(now[place])} {labels.get(place) or _model(now[place])} at {_where(now[place])} is new"
    for place in before:
        if place not in gone:
            yield from _function_changes(before[place], now[place], keys)


def _by_place(state: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    places: dict[str, list[Mapping[str, Any]]] = {}
    for function in state["functions"]:
        # Bridges come and go with what is behind them.
        if not function["class"].startswith("06"):
            places.setdefault(function["path"].rpartition(".")[0], []).append(function)
    return places


def _identity(functions: list[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["path"].rpartition(".")[2], *(each[key] for key in _IDENTITY)) for each in functions]


def _where(functions: list[Mapping[str, Any]]) -> str:
    first = functions[0]
    return f"slot {first['slot']}" if first["slot"] else first["path"].rpartition(".")[0]


def _kind(functions: list[Mapping[str, Any]]) -> str:
    """A board is what has a display function."""
    return "board" if any(each["class"].startswith("03") for each in functions) else "device"


def _model(functions: list[Mapping[str, Any]]) -> str:
    first = next((each for each in functions if each["class"].startswith("03")), functions[0])
    return first["device_name"] or f"{first['vendor']}:{first['device']}"


def _function_changes(
    before: list[Mapping[str, Any]], now: list[Mapping[str, Any]], keys: Mapping[str, str]
) -> Iterator[str]:
    for old, new in zip(before, now, strict=True):
        for key, name in keys.items():
            if old[key] != new[key]:
                was, is_now = (value if value is not None else "none" for value in (old[key], new[key]))
                yield f"{name} of {new['address']} is {is_now}, was {was}"
