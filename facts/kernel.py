"""Kernel modules and the kernel command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts import grub_menu
from facts.grub_menu import MenuEntry

_MODULES = r"""
for module in "$@"; do
  if [ -d "/sys/module/$module" ]; then loaded=loaded; else loaded=-; fi
  file=$(modinfo -F filename "$module" 2>/dev/null | head -n1)
  case $file in
    "") [ $loaded = loaded ] && kind=built-in || kind=missing ;;
    "(builtin)") kind=built-in; loaded=loaded ;;
    *) kind=module ;;
  esac
  echo "$module $kind $loaded"
done
"""


@dataclass(frozen=True, slots=True)
class Module:
    """One kernel module of the running kernel. ``name`` is spelt with underscores, as /proc/modules does."""

    name: str
    kind: str
    loaded: bool

    @property
    def exists(self) -> bool:
        """Whether the kernel has it, as a file or built in."""
        return self.kind != "missing"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class KernelModules(FactBase[dict[str, Module]]):
    """Which of the named modules the running kernel has: ``module``, ``built-in`` or ``missing``; and which run."""

    @staticmethod
    def default() -> dict[str, Module]:
        return {}

    def command(self, modules: tuple[str, ...]) -> str:
        # sbin is not on every login's path
        names = " ".join(quote(module.replace("-", "_")) for module in modules)
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_MODULES)} modules {names}"

    def process(self, output: list[str]) -> dict[str, Module]:
        modules = {}
        for line in output:
            try:
                module, kind, loaded = line.split()
            except ValueError:
                raise FactProcessError(f"kernel modules: expected NAME KIND LOADED, found {line!r}") from None
            modules[module] = Module(module, kind, loaded == "loaded")
        return modules


# The files that decide what boots, as they are; those that can set an argument, line by line; and what update-grub
# would make of the variables in /etc/default, which it sources in this order.
_COMMAND_LINE = r"""
own=$1
sed 's/^/live /' /proc/cmdline
[ -d /sys/firmware/efi ] && echo efi
menus='/boot/grub/grub.cfg /boot/grub2/grub.cfg'
if command -v grubby >/dev/null; then
  grubby --info=ALL 2>/dev/null | sed -n 's/^args="\(.*\)"$/configured \1/p'
  menus="/boot/grub2/grub.cfg $(grep -l -s -E '^[[:space:]]*(menuentry|blscfg)' /boot/efi/EFI/*/grub.cfg)"
fi
for menu in $menus; do [ -e "$menu" ] && break; done
prefix=${menu%/*}; set -- /boot/loader/entries/*.conf "$prefix/grubenv" "$prefix/custom.cfg" "$prefix/user.cfg"
echo "menu $menu"
for file in "$menu" "$@"; do
  [ -e "$file" ] || continue
  if [ ! -r "$file" ]; then echo "hidden $file"; continue; fi
  echo "file $file"; head -c 500000 <"$file" | sed 's/^/|/'; echo
done
words='GRUB_CMDLINE|iommu|intremap|apic|acpi|list=|nosmp|maxcpus|vfio|nomodule|clearcpuid|systemd\.|driver\.post'
words="$words|pci=|pcibind=|root="
grep -nHs -E "$words" /etc/default/grub /etc/default/grub.d/*.cfg /etc/kernel/cmdline /etc/kernel/cmdline.d/* \
  /etc/grub.d/* /etc/tuned/bootcmdline "$@" | grep -v -E '^[^:]*:[0-9]*:[[:space:]]*#' |
  head -n 400 | sed 's/^/source /'
mark=gpu-host.here
variables() (
  unset GRUB_CMDLINE_LINUX GRUB_CMDLINE_LINUX_DEFAULT; exec 3>&1 >/dev/null 2>&1 </dev/null
  [ -r /etc/default/grub ] || exit 0
  . /etc/default/grub
  # In the order of the letters, which is that of every locale for names such as these.
  for file in $(export LC_ALL=C; set -- /etc/default/grub.d/*.cfg; printf '%s\n' "$@" "$own" | sort -u); do
    if [ "$1$file" = "planned$own" ]; then
      GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT $mark"; GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX $mark"
    elif [ -r "$file" ]; then . "$file"; fi
  done
  printf '%s %s\n' "$1" "$(printf %s "$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT" | tr '\n' ' ')" >&3
)
command -v grubby >/dev/null || { variables made; variables planned; }
true
"""


MARK = "gpu-host.here"


@dataclass(frozen=True, slots=True)
class Source:
    """A line of a file that can set an argument of the kernel."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class CommandLines:
    """The kernel's arguments: those it runs with, and those of every entry of this system in the boot loader's menu.

    ``menu`` is the file that the boot loader reads, ``hidden`` a file of it that this login may not read, ``boots`` the
    entry that boots next, and ``made`` the words that update-grub would give to every entry of this system (``None``
    where that is not known). ``planned`` are those words with ``MARK`` wherever our drop-in's arguments will stand.
    """

    live: tuple[str, ...]
    configured: tuple[tuple[str, ...], ...]
    hidden: str = ""
    menu: str = ""
    boots: MenuEntry | None = None
    sources: tuple[Source, ...] = ()
    made: tuple[str, ...] | None = None
    planned: tuple[str, ...] | None = None
    # The entries of this system without rescue shells, as read from the menu itself.
    entries: tuple[MenuEntry, ...] = ()

    @property
    def next(self) -> tuple[tuple[str, ...], ...]:
        """The lines of which one boots next: one, where the menu says which."""
        return self.configured if self.boots is None or self.hidden else (self.boots.arguments,)

    def is_own(self, entry: MenuEntry) -> bool:
        """Whether an entry starts this system: other systems and memory tests have entries in the same menu."""
        root = next((each for each in reversed(self.live) if each.startswith("root=")), None)
        return bool(entry.kernel) and (root in (None, entry.root) or is_generated(entry))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_generated(entry: MenuEntry) -> bool:
    """Whether an entry is of this system because its own tools wrote it."""
    return "/10_linux" in entry.script or "/loader/entries/" in entry.script


def words(line: str) -> tuple[str, ...]:
    """Split a command line as the kernel does: a space inside of double quotes is part of an argument."""
    return tuple(re.findall(r'(?:[^\s"]|"[^"]*"?)+', line))


class KernelCommandLine(FactBase[CommandLines]):
    """The live kernel command line, and those that the boot loader's menu has (rescue shells left out).

    ``drop_in`` is our file in /etc/default/grub.d, whether it exists or not.
    """

    @staticmethod
    def default() -> CommandLines:
        return CommandLines((), ())

    def command(self, drop_in: str) -> str:
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_COMMAND_LINE)} command-line {quote(drop_in)}"

    def process(self, output: list[str]) -> CommandLines:
        values: dict[str, list[str]] = {}
        files: dict[str, list[str]] = {}
        text: list[str] = []
        for line in output:
            if line.startswith("|"):
                text.append(line[1:])
                continue
            kind, _, rest = line.partition(" ")
            if kind == "file":
                text = files.setdefault(rest, [])
            else:
                values.setdefault(kind, []).append(rest)
        live = words(" ".join(values.get("live", [])))
        path = values.get("menu", [""])[0]
        menu = grub_menu.read({name: "\n".join(lines) for name, lines in files.items()}, path, "efi" in values)
        lines = CommandLines(
            live=live,
            configured=(),
            hidden=next(iter(values.get("hidden", [])), ""),
            menu=path if path in files else "",
            boots=menu.boots,
            sources=tuple(_sources(values.get("source", []))),
            made=grub_menu.words(values["made"][0]) if "made" in values else None,
            planned=grub_menu.words(values["planned"][0]) if "planned" in values else None,
        )
        own = tuple(each for each in menu.entries if lines.is_own(each) and not each.is_recovery)
        asked = tuple(words(line) for line in values.get("configured", []))
        return replace(lines, configured=asked or tuple(each.arguments for each in own), entries=own)


def _sources(lines: list[str]) -> Iterator[Source]:
    for line in lines:
        match line.split(":", 2):
            case [file, number, text] if number.isdecimal():
                yield Source(file, int(number), text)


class InterruptRemapping(FactBase[bool]):
    """Whether the kernel remaps interrupts; VFIO refuses to attach a device without it.

    The names of remapped interrupt controllers begin with ``IR-`` (arch/x86/kernel/apic, drivers/iommu).
    """

    @staticmethod
    def default() -> bool:
        return False

    def command(self) -> str:
        return "if grep -q ' IR-' /proc/interrupts; then echo yes; else echo no; fi"

    def process(self, output: list[str]) -> bool:
        return output[0].strip() == "yes"
