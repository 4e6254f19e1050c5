"""A container's seccomp profile on this kernel: Podman's choice of rules, made a filter as crun does, for one process.

A profile of these tests has only rules for sockets, so every other system call is allowed.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable
from ctypes.util import find_library
from typing import Any

Profile = dict[str, Any]
Socket = tuple[int, int, int]
"""Family, type and protocol."""

AVAILABLE = find_library("seccomp") is not None
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_OPERATORS = {
    f"SCMP_CMP_{name}": number for number, name in enumerate(("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"), 1)
}


class _Condition(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def apply(profile: Profile, capabilities: frozenset[str]) -> None:
    """Filter this process's system calls from now on. There is no way back."""
    library = ctypes.CDLL(find_library("seccomp"))
    library.seccomp_init.restype = ctypes.c_void_p
    add = library.seccomp_rule_add_array
    add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Condition)]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet", 1))
    context = library.seccomp_init(default)
    resolve = library.seccomp_syscall_resolve_name
    named = {resolve(name.encode()) for rule in profile["syscalls"] for name in rule["names"]}
    for number in set(range(470)) - named:
        add(context, _ALLOW, number, 0, None)
    for rule in profile["syscalls"]:
        action = _action(rule["action"], rule.get("errnoRet", 1))
        if not _applies(rule, capabilities) or action == default:
            continue
        conditions = [_Condition(each["index"], _OPERATORS[each["op"]], each["value"], each.get("valueTwo", 0))
                      for each in rule["args"]]  # fmt: skip
        alternatives = len({each.arg for each in conditions}) < len(conditions)
        for group in [[each] for each in conditions] if alternatives else [conditions]:
            for name in rule["names"]:
                code = add(context, action, resolve(name.encode()), len(group), (_Condition * len(group))(*group))
                if code < 0:
                    raise OSError(-code, f"seccomp_rule_add_array: {os.strerror(-code)}")
    if library.seccomp_load(context) != 0:
        raise OSError("the kernel refuses the filter")


def _action(name: str, number: int) -> int:
    return _ALLOW if name == "SCMP_ACT_ALLOW" else _ERRNO | number


def _applies(rule: dict[str, Any], capabilities: frozenset[str]) -> bool:
    included, excluded = (set(rule.get(key, {}).get("caps", ())) for key in ("includes", "excludes"))
    return included <= capabilities and not excluded & capabilities


def results(
    sockets: Iterable[Socket], profile: Profile | None, capabilities: frozenset[str] = frozenset()
) -> dict[Socket, int]:
    """The error number of each socket, 0 when it opens, in a process of its own under the profile, or under none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if profile is not None:
                apply(profile, capabilities)
            os.write(writer, "".join(f"{each[0]} {each[1]} {each[2]} {_error(each)}\n" for each in sockets).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as opened:
        lines = [[int(word) for word in line.split()] for line in opened]
    os.waitpid(child, 0)
    return {(family, kind, protocol): number for family, kind, protocol, number in lines}


def _error(wanted: Socket) -> int:
    try:
        socket.socket(*wanted).close()
    except OSError as error:
        return error.errno or -1
    return 0
