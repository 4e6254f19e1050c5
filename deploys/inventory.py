"""Inventories that pyinfra reads otherwise than their author meant, found before any host is asked.

pyinfra takes every list at the top level of an inventory for a group of hosts, ignores what is no list, ignores a file
of group data that no group has the name of, and ends with 0 when no host is left.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import click
from pyinfra.api import Inventory, State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_inventory, ctx_state

from deploys.inputs import execution, host_keys
from deploys.inputs.spelling import suggest
from deploys.settings import PREFIX, HostSettings, Settings, SettingsError, read_all

_Kind = TypeVar("_Kind", bound=HostSettings)
_NAME = re.compile(r"[\w.-]+")
# What other tools call the place of such data. pyinfra reads group_data only, and in it only Python.
_OTHER_PLACES = ("group_vars", "host_vars", "host_data", "group-data", "groupdata", "group_datas")
_OTHER_FORMATS = (".yml", ".yaml", ".json", ".toml", ".ini")
_REGISTERED = "deploys.inventory"


def problems(inventory: Inventory, path: str) -> list[str]:
    """What is wrong with the groups and names of an inventory, a sentence for each; ``path`` is where it was read."""
    return [*_misread(inventory, path), *_unmatched(inventory, path), *_unread(path)]


def _misread(inventory: Inventory, path: str) -> Iterator[str]:
    """Lists that are no groups of hosts. pyinfra adds one group of all hosts, with the name of the file."""
    grouped: set[str] = set()
    for name, hosts in sorted(inventory.groups.items(), key=lambda item: item[0] in ("all", Path(path).stem)):
        problem = group_problem(name, [host.name for host in hosts if host.name not in grouped])
        grouped.update(host.name for host in hosts)
        if problem:
            yield problem


def group_problem(group: str, hosts: Iterable[str]) -> str | None:
    """Why a list at the top level of an inventory cannot be meant as a group of hosts, if it cannot."""
    plain = group.removeprefix(PREFIX)
    key = plain if plain in Settings.model_fields else None
    key = key or (suggest(group, [PREFIX + name for name in Settings.model_fields]) or "").removeprefix(PREFIX)
    odd = next((host for host in hosts if not is_host_name(host)), None)
    if not key and odd is None:
        return None
    key = key or next((name for name in Settings.model_fields if plain and plain in name), "")
    value = (
        f"{odd!r} in the list {group!r} is no host's name" if odd is not None else f"the list {group!r} is a setting"
    )
    place = f"{PREFIX}{key} in a host's data or in group_data" if key else "a host's data or group_data"
    return (
        f"{value}, but pyinfra takes every list at the top level of an inventory for hosts; expected names or IP "
        f"addresses: move the list to {place}, or begin its variable's name with an underscore"
    )


def is_host_name(text: str) -> bool:
    """Whether pyinfra could connect to it: a name, an address without a port, or one of its connectors."""
    with suppress(ValueError):
        return bool(ip_address(text))
    return text.startswith("@") or _NAME.fullmatch(text) is not None


def _unmatched(inventory: Inventory, path: str) -> Iterator[str]:
    """Group data that no host has. Inventories beside one another share theirs, so their groups count too."""
    groups = sorted(name for name, hosts in inventory.groups.items() if hosts)
    known = {"all", *groups, *_declared(path)}
    for name, data in inventory.group_data.items():
        if data and name not in known:
            likely = suggest(name, groups) or next((each for each in groups if each.startswith(name)), None)
            yield (
                f"group_data/{name}.py is of no group of the inventory, so pyinfra ignores it; expected one of "
                f"{', '.join(['all', *groups])}{f' (did you mean {likely}?)' if likely else ''}: rename the file, or "
                "remove it"
            )


def _declared(path: str) -> set[str]:
    """The names of the inventories in a directory, and of what stands at their top level."""
    names: set[str] = set()
    for file in Path(path).parent.glob("*.py") if Path(path).is_file() else ():
        names.add(file.stem)
        with suppress(OSError, ValueError, SyntaxError):
            for each in ast.walk(ast.parse(file.read_bytes())):
                targets = each.targets if isinstance(each, ast.Assign) else [getattr(each, "target", None)]
                if isinstance(each, ast.Assign | ast.AnnAssign):
                    names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


def _unread(path: str) -> Iterator[str]:
    """Files beside an inventory that look like data of its hosts, and that pyinfra does not read."""
    if not Path(path).is_file():
        return
    directory = Path(path).parent
    for name in _OTHER_PLACES:
        if (directory / name).is_dir() and any((directory / name).iterdir()):
            yield (
                f"{directory / name} is not read by pyinfra; expected data in {directory / 'group_data'}/GROUP.py, or "
                "beside a host's name in the inventory: move it there"
            )
    for file in sorted(directory.glob("group_data/*")):
        if file.suffix in _OTHER_FORMATS:
            yield f"{file} is not read by pyinfra; expected Python: write it as {file.with_suffix('.py').name}"


def problems_of_run(state: State) -> list[str]:
    """The problems of the inventory that pyinfra's command line was given."""
    # click's own context is of another greenlet. Where hosts are given by name, this is a deploy, and says nothing.
    path = next((word for word in sys.argv[1:] if word.endswith(".py") and Path(word).is_file()), "")
    return problems(state.inventory, path)


def settings_of_run(state: State, reader: Callable[[str, Mapping[str, Any]], _Kind]) -> dict[str, _Kind]:
    """The settings of every host that ``--limit`` leaves in, as ``reader`` reads them out of a host's name and data.

    Raises ``SettingsError`` with the problems of the inventory and of all hosts.
    """
    wrong = problems_of_run(state)
    wrong += execution.find_problems([each for each in state.inventory if state.is_host_in_limit(each)])
    hosts = [each for each in state.inventory if state.is_host_in_limit(each) and is_host_name(each.name)]
    checked: dict[str, _Kind] = {}
    try:
        checked = read_all(((each.name, each.data.dict()) for each in hosts), reader)
    except SettingsError as error:
        wrong.append(str(error))
    if wrong:
        raise SettingsError("\n".join(wrong))
    return checked


def check_run() -> None:
    """Check the inventory that pyinfra is reading now, and at the end of the run that it had a host.

    To be called from ``config.py`` or from a file of group data, which pyinfra reads before it connects to any host.
    Raises ``PyinfraError``.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    if not context.meta.get(_REGISTERED):
        context.meta[_REGISTERED] = True
        context.call_on_close(lambda: _refuse_an_empty_run(context.params))
    if not ctx_inventory.isset():
        return
    inventory = ctx_inventory.get()
    wrong = list(_misread(inventory, str(context.params.get("inventory", ""))))
    for name, data in inventory.host_data.items():
        wrong += [f"{name}: {problem}" for problem in host_keys.find_problems(data)]
    if wrong:
        raise PyinfraError("the inventory cannot be used, and no host was asked:\n" + "\n".join(dict.fromkeys(wrong)))


def _refuse_an_empty_run(parameters: Mapping[str, Any]) -> None:
    state = ctx_state.get() if ctx_state.isset() else None
    inventory = getattr(state, "inventory", None)
    if state is None or inventory is None or any(state.is_host_in_limit(each) for each in inventory):
        return
    names = ", ".join(each.name for each in inventory)
    options = [f"--{option} {word}" for option in ("limit", "exclude") for word in parameters.get(option) or ()]
    if names:
        reason = f"{' '.join(options)} leaves none of the hosts of the inventory ({names}); expected one of them"
    else:
        reason = "it has no host; expected a list of hosts at its top level, such as nodes = ['gpu1.example.org']"
    raise click.ClickException(f"{parameters.get('inventory')}: {reason}. Nothing was done.")
