"""Several facts of a host in one remote command: with many hosts, each command costs time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from pyinfra import logger
from pyinfra.api import FactBase, Host
from pyinfra.api.exceptions import FactProcessError

# A line of this kind is in no fact's output: it begins with the control character SOH.
_MARK = "\x01"
# Time limit of one part in seconds, so that a program that hangs costs its own part only.
SECONDS = 40
# Time limit of a part that is read again on its own, for slow hosts.
ALONE_SECONDS = 120
# Characters that are kept of the last line of a failed part.
_WORDS = 300
# pyinfra decodes UTF-8 only, and names on a host may have any bytes.
_READABLE = (
    "if command -v iconv >/dev/null 2>&1; then iconv -c -f UTF-8 -t UTF-8; else LC_ALL=C tr '\\200-\\377' '?'; fi; true"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the facts: what it is called among them, its class, and what its command is given."""

    name: str
    # pyinfra prints what a fact was given, and a program is a page.
    fact: type[FactBase[Any]] = field(repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __hash__(self) -> int:
        return hash((self.name, self.fact))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a fact's value: why it could not be read."""

    reason: str

    def to_json(self) -> dict[str, str]:
        return {"unreadable": self.reason}


class FactBatch(FactBase[dict[str, Any]]):
    """The value of each part by its name, or ``Unreadable``. A failed part does not affect the others.

    As with a single fact, a part whose program is missing, or that prints nothing, has its default value.
    """

    @staticmethod
    def default() -> dict[str, Any]:
        return {}

    def command(self, parts: tuple[Part, ...]) -> str:
        self._parts = {part.name: part for part in parts}
        every = "; ".join(_command(part) for part in parts)
        return f"{{ exec 3>&1; n='\n'; {every}\n}} | {_READABLE}"

    def process(self, output: list[str]) -> dict[str, Any]:
        outputs, ends = _sections(output)
        return {name: _value(part, outputs.get(name), ends.get(name)) for name, part in self._parts.items()}


def ask(host: Host, *parts: Part) -> dict[str, Any]:
    """The value of each part by its name, in one remote command.

    A part that cannot be read is read again on its own, so that it fails like any single fact.
    """
    values = host.get_fact(FactBatch, parts=parts)
    if not values and host.name in {each.name for each in host.state.failed_hosts}:
        # The host could not be asked, and pyinfra has reported that: as with a single fact, use the defaults.
        return {part.name: part.fact().default() for part in parts}
    alone = {}
    for part in parts:
        value = values.get(part.name, Unreadable("no answer"))
        if isinstance(value, Unreadable):
            logger.debug(f"{host.print_prefix}{part.name}: {value.reason}; asked for alone")
            alone[part.name] = host.get_fact(part.fact, **part.arguments, _timeout=ALONE_SECONDS)
    return values | alone


def _command(part: Part) -> str:
    fact = part.fact()
    command = str(fact.command(**part.arguments))
    requires = fact.requires_command(**part.arguments)
    if requires:
        command = f"if command -v {quote(str(requires))} >/dev/null 2>&1; then {command}\nfi"
    name = quote(part.name)
    # In a separate shell: a fact may change its directory or exit. The last line of standard error is kept.
    bounded = f"e=$(timeout -k 5 {SECONDS} sh -c {quote(command)} 2>&1 >&3 3>&-)"
    end = f'printf \'\\n\\001%s %s %.{_WORDS}s\\n\' {name} $? "${{e##*"$n"}}"'
    return f"printf '\\001%s\\n' {name}; {bounded}; {end}"


def _sections(output: list[str]) -> tuple[dict[str, list[str]], dict[str, tuple[int, str]]]:
    outputs: dict[str, list[str]] = {}
    ends: dict[str, tuple[int, str]] = {}
    current: list[str] = []
    for line in output:
        if not line.startswith(_MARK):
            current.append(line)
            continue
        name, _, end = line.removeprefix(_MARK).partition(" ")
        if end:
            # The line end before the mark is the mark's, where the fact's own last line has one.
            if current and current[-1] == "":
                current.pop()
            code, _, words = end.partition(" ")
            ends[name] = int(code), words.strip()
            current = []
        else:
            current = outputs[name] = []
    return outputs, ends


def _value(part: Part, output: list[str] | None, end: tuple[int, str] | None) -> Any:
    fact = part.fact()
    if end is None:
        return Unreadable("the connection ended before it was read")
    code, words = end
    if code in (124, 137):
        return Unreadable(f"no answer within {SECONDS} s")
    if code != 0:
        return Unreadable(f"its command ended with {code}{': ' if words else ''}{words}")
    if output is None:
        return Unreadable("its answer has no beginning")
    if not output:
        return fact.default()
    try:
        return fact.process(output)
    except FactProcessError as error:
        return Unreadable(str(error))
