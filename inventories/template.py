"""A guard for the inventory that comes as a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api.exceptions import PyinfraError

# Names and addresses that are reserved for documentation (RFC 2606, RFC 5737): nobody's node.
_RESERVED = ("example.com", "192.0.2.")


def refuse_unedited(nodes: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise ``PyinfraError`` when a host still has the template's name or address."""
    for name, data in nodes:
        left = [f"host {name!r}"] if _is_reserved(name) else []
        left += [f"{key} = {value!r}" for key, value in data.items() if isinstance(value, str) and _is_reserved(value)]
        if left:
            raise PyinfraError(
                f"inventories/prod.py is still the template ({', '.join(left)}). "
                "Edit its three lines marked 'edit me': your node's name, its account, its public address."
            )


def _is_reserved(text: str) -> bool:
    return any(word in text for word in _RESERVED)
