"""Addresses of PCI functions."""

from __future__ import annotations

import re
from typing import NamedTuple

# Domains are four digits by the specification; Linux gives volume management devices five.
_ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")


class Address(NamedTuple):
    """Where a function answers today: domain, bus, device, function, each a plain number.

    Buses are numbered anew at every boot, so an address names a function but not a board's
    identity; `Function.path` does.
    """

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read sysfs's form, `0000:01:00.0`; raise ValueError for anything else."""
        match = _ADDRESS.fullmatch(text.lower())
        if match is None:
            raise ValueError(
                f"{text!r} is not a PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION in "
                "hexadecimal, as in 0000:01:00.0"
            )
        domain, bus, device, function = (int(part, 16) for part in match.groups())
        return cls(domain, bus, device, function)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"
