"""Checks of an inventory by itself, before pyinfra makes hosts of it."""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pyinfra.api.exceptions import PyinfraError

from deploys.inventory import group_problem

# Names and addresses that are reserved for documentation (RFC 2606, RFC 5737): nobody's node.
_NAMES = (".example.com", ".example.net", ".example.org", ".example")
_ADDRESSES = ("192.0.2.", "198.51.100.", "203.0.113.")
_EXPECTED = "expected a list of hosts, each a name or (name, {key: value}), such as nodes = [('gpu1', {})]"


def read_hosts(path: Path) -> dict[str, Any]:
    """The variables of an operator's own inventory. Raises ``PyinfraError`` where there is none yet."""
    if not path.exists():
        raise PyinfraError(
            f"{path} is missing; expected your hosts. Copy an example, and edit it: "
            "cp examples/quick_start.py inventories/hosts.py"
        )
    return {name: value for name, value in runpy.run_path(str(path)).items() if not name.startswith("_")}


def check_inventory(variables: Mapping[str, Any]) -> None:
    """Check the top level of an inventory: call it with ``globals()`` at the end of one.

    Raises ``PyinfraError`` for what pyinfra would ignore or misread, and for what is still the template's.
    """
    own = {name: value for name, value in variables.items() if not name.startswith("_") and not _is_code(value)}
    problems = [problem for name, value in own.items() for problem in _problems(name, value)]
    if not problems and not any(_hosts(value) for value in own.values()):
        shown = ", ".join(f"{name} is {_shape(value)}" for name, value in own.items()) or "nothing is set"
        problems = [f"there is no host in it ({shown}); {_EXPECTED}"]
    if problems:
        raise PyinfraError("the inventory cannot be used, and no host was asked:\n" + "\n".join(problems))
    for value in own.values():
        for name, data in _hosts(value):
            _refuse_unedited(name, data)


def _is_code(value: object) -> bool:
    return isinstance(value, ModuleType) or callable(value)


def _problems(name: str, value: object) -> Iterator[str]:
    """What pyinfra would not take as it was meant in one variable."""
    if isinstance(value, set | frozenset) or (isinstance(value, Mapping) and _is_of_hosts(value)):
        yield f"{name} is {_shape(value)}, which pyinfra ignores; {_EXPECTED}"
    elif name in ("nodes", "hosts") and not isinstance(value, list | tuple):
        shown = f"{value!r:.60}" if isinstance(value, str) else _shape(value)
        yield f"{name} is {shown}, which pyinfra ignores; {_EXPECTED}"
    elif isinstance(value, tuple) and not _is_group_with_data(value):
        yield (
            f"{name} is a tuple, which pyinfra takes for ([hosts], {{data}}); {_EXPECTED}; or begin the name with an "
            "underscore"
        )
    elif isinstance(value, list | tuple):
        hosts = value[0] if isinstance(value, tuple) else value
        odd = next((place for place, each in enumerate(hosts) if not _is_host(each)), None)
        if odd is not None:
            yield f"{name}[{odd}] is {_shape(hosts[odd])}, which is no host; {_EXPECTED}"
            return
        names = [each if isinstance(each, str) else each[0] for each in hosts]
        if problem := group_problem(name, names):
            yield problem
        again = next((each for place, each in enumerate(names) if each in names[:place]), None)
        if again is not None:
            yield f"{name} has {again!r} twice; expected each host once"


def _shape(value: object) -> str:
    """What a value is, without what is in it, which may be secret."""
    if value is None:
        return "None"
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict | set) else ""
    return f"a {type(value).__name__}{size}"


def _is_group_with_data(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and isinstance(value[0], list) and isinstance(value[1], dict)


def _is_host(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and isinstance(value[0], str) and value[0] != "" and isinstance(value[1], dict)
    return isinstance(value, str) and value != ""


def _is_of_hosts(value: Mapping[Any, Any]) -> bool:
    return bool(value) and all(isinstance(each, Mapping) for each in value.values())


def _hosts(value: object) -> list[tuple[str, Mapping[str, Any]]]:
    """The hosts of a variable that pyinfra takes for a group."""
    listed = value[0] if isinstance(value, tuple) and _is_group_with_data(value) else value
    if not isinstance(listed, list):
        return []
    return [(each, {}) if isinstance(each, str) else each for each in listed if _is_host(each)]


def _refuse_unedited(name: str, data: Mapping[str, Any]) -> None:
    left = [f"host {name!r}"] if _is_reserved(name) else []
    left += [f"{key} = {value!r}" for key, value in data.items() if any(map(_is_reserved, _texts(value)))]
    if left:
        raise PyinfraError(
            f"the inventory is still the template ({', '.join(left)}). Replace these by your own; in a "
            "copy of examples/quick_start.py edit the four lines marked 'edit me': your node's name, its account, its "
            "public address, the networks of its peers."
        )


def _texts(value: object) -> list[str]:
    """The text of a value, or the texts in a list of them."""
    values = value if isinstance(value, list | tuple) else (value,)
    return [each for each in values if isinstance(each, str)]


def _is_reserved(text: str) -> bool:
    return f".{text}".endswith(_NAMES) or text.startswith(_ADDRESSES)
