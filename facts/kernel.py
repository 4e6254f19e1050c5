"""Kernel modules and the kernel command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

MODULES = ("vfio", "vfio_pci", "vfio_iommu_type1", "vsock", "vhost_vsock", "kvm")
"""Those that a node needs."""

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

    def command(self, modules: tuple[str, ...] = MODULES) -> str:
        # sbin is not on every login's path
        names = " ".join(quote(module.replace("-", "_")) for module in modules)
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_MODULES)} modules {names}"

    def process(self, output: list[str]) -> dict[str, Module]:
        found = {}
        for line in output:
            try:
                module, kind, loaded = line.split()
            except ValueError:
                raise FactProcessError(f"kernel modules: expected NAME KIND LOADED, found {line!r}") from None
            found[module] = Module(module, kind, loaded == "loaded")
        return found


_COMMAND_LINE = r"""
sed 's/^/live /' /proc/cmdline
if command -v grubby >/dev/null; then
  grubby --info=ALL 2>/dev/null | sed -n 's/^args="\(.*\)"$/configured \1/p'
else
  for file in /boot/grub/grub.cfg /boot/grub2/grub.cfg; do
    [ -r "$file" ] && grep -E '^[[:space:]]+linux(efi)?[[:space:]]' "$file" | grep ' root=' |
      grep -v -w -E 'single|recovery' | sed -E 's/^[[:space:]]+linux(efi)?[[:space:]]+[^[:space:]]+/menu/'
    [ -e "$file" ] && [ ! -r "$file" ] && echo "hidden $file"
    [ -r "$file" ] && [ -n "$(find /etc/default/grub.d/90-gevulot.cfg -newercm "$file" 2>/dev/null)" ] && echo stale
  done
fi
true
"""


@dataclass(frozen=True, slots=True)
class CommandLines:
    """The kernel's arguments: those it runs with, and those of every entry that the boot loader could start."""

    live: tuple[str, ...]
    configured: tuple[tuple[str, ...], ...]
    # Whether GRUB's menu is older than what it is made from.
    stale: bool = False
    # The menu, where there is one that this login may not read.
    hidden: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def effective(arguments: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether ``wanted`` holds on a command line.

    The kernel reads from left to right, and the last of a name wins; but nothing after ``iommu=off`` takes it back
    (``iommu_setup`` in arch/x86/kernel/pci-dma.c).
    """
    if "iommu=off" in arguments:
        return False
    last = {argument.partition("=")[0]: argument for argument in arguments}
    return all(last.get(argument.partition("=")[0]) == argument for argument in wanted)


class KernelCommandLine(FactBase[CommandLines]):
    """The live kernel command line, and the ones configured in the boot loader (recovery entries left out)."""

    @staticmethod
    def default() -> CommandLines:
        return CommandLines((), ())

    def command(self) -> str:
        return f"PATH=$PATH:/usr/sbin:/sbin sh -c {quote(_COMMAND_LINE)}"

    def process(self, output: list[str]) -> CommandLines:
        live: tuple[str, ...] = ()
        configured = []
        stale = False
        hidden = ""
        root = None
        for line in output:
            kind, *arguments = line.split()
            if kind == "live":
                live = tuple(arguments)
                # Other systems and memory tests have entries in GRUB's menu; ours boot from the root that runs now.
                root = next((argument for argument in live if argument.startswith("root=")), None)
            elif kind == "stale":
                stale = True
            elif kind == "hidden":
                hidden = " ".join(arguments)
            elif kind == "configured" or root is None or root in arguments:
                configured.append(tuple(arguments))
        return CommandLines(live, tuple(configured), stale, hidden)


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
