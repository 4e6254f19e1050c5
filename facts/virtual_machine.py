"""A short-lived virtual machine inside the node's container, started as the node starts those of programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from pyinfra.api import FactBase

SECONDS = 90
_STARTER = Path(__file__).with_name("virtual_machine_starter.py")


@dataclass(frozen=True, slots=True)
class VirtualMachineResult:
    """The result of one start.

    ``accelerator`` (``kvm`` or ``tcg``) and ``version`` are QEMU's own answers, ``None`` where it gave none. ``reason``
    says why there is none, or no KVM. ``memlock`` is the limit in bytes that the container's first process has, and
    ``devices`` has for each of its devices ``opened``, ``exists`` (not tried) or why it could not be opened; empty
    where the container runs no command.
    """

    accelerator: str | None = None
    version: str | None = None
    reason: str = ""
    memlock: str = ""
    devices: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse(output: list[str]) -> VirtualMachineResult:
    """Parse what the starter printed. A line that is no answer is kept as a message, for ``reason``."""
    answers: dict[str, Any] = {}
    devices: dict[str, str] = {}
    words: list[str] = []
    memlock = end = ""
    for line in output:
        kind, _, text = line.partition(" ")
        match kind, text.split(" ", 2):
            case "end", [code]:
                end = code
            case "out", ["memlock", limit]:
                memlock = limit
            case "out", ["device", path, state]:
                devices[path] = state
            case "out", _ if (message := _message(text)) is not None:
                answers[str(message.get("id"))] = message.get("return")
            # Podman's own log lines are no answer.
            case (("out" | "err"), _) if not text.startswith('time="'):
                words.append(text.strip())
    kvm, version, status = (_answer(answers, f"query-{name}") for name in ("kvm", "version", "status"))
    qemu = version.get("qemu")
    if status.get("running") is False:
        return VirtualMachineResult(
            reason=f"QEMU says {status.get('status')}, not running", memlock=memlock, devices=devices
        )
    if "enabled" not in kvm or not isinstance(qemu, dict) or not status:
        return VirtualMachineResult(reason=_reason(end, words, bool(memlock)), memlock=memlock, devices=devices)
    number = ".".join(str(qemu.get(part, "?")) for part in ("major", "minor", "micro"))
    if kvm["enabled"] is True:
        return VirtualMachineResult("kvm", number, "", memlock, devices)
    about_kvm = [line for line in words if "kvm" in line.lower()]
    return VirtualMachineResult("tcg", number, about_kvm[-1] if about_kvm else "", memlock, devices)


def _message(text: str) -> dict[str, Any] | None:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _answer(answers: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = answers.get(name)
    return value if isinstance(value, dict) else {}


def _reason(end: str, words: list[str], entered: bool) -> str:
    last = f": {words[-1]}" if words else ", without a message"
    if end == "timeout":
        return f"no answer within {SECONDS} s{last}"
    return f"{'QEMU' if entered else 'podman exec'} ended with exit code {end or 'unknown'}{last}"


class VirtualMachine(FactBase[VirtualMachineResult]):
    """Start a virtual machine inside a running container, ask its QEMU for accelerator and version, and end it.

    ``prefix`` begins the machine's name; ``directory`` is the container's directory that the machine shares.
    """

    @staticmethod
    def default() -> VirtualMachineResult:
        return VirtualMachineResult(reason="it was not started: the host has no Podman, or its Python printed nothing")

    def requires_command(self, container: str, qemu: str, prefix: str, directory: str) -> str:
        return "podman"

    def command(self, container: str, qemu: str, prefix: str, directory: str) -> str:
        program = _STARTER.read_text(encoding="utf-8")
        words = (container, qemu, prefix, directory, str(SECONDS))
        return f"python3 -I -c {quote(program)} {' '.join(map(quote, words))}"

    def process(self, output: list[str]) -> VirtualMachineResult:
        return parse(output)
