"""A guard for the inventory that comes as a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api.exceptions import PyinfraError

# Names and addresses that are reserved for documentation (RFC 2606, RFC 5737): nobody's node.
_NAMES = (".example.com", ".example.net", ".example.org", ".example")
_ADDRESSES = ("192.0.2.", "198.51.100.", "203.0.113.")


def refuse_unedited(nodes: Sequence[str | tuple[str, Mapping[str, Any]]]) -> None:
    """Raise ``PyinfraError`` when a host still has the template's name or address."""
    for node in nodes:
        name, data = (node, {}) if isinstance(node, str) else node
        left = [f"host {name!r}"] if _is_reserved(name) else []
        left += [f"{key} = {value!r}" for key, value in data.items() if any(map(_is_reserved, _texts(value)))]
        if left:
            raise PyinfraError(
                f"the inventory is still the template ({', '.join(left)}). In inventories/prod.py, edit the four "
                "lines marked 'edit me': your node's name, its account, its public address, the networks of its peers."
            )


def _texts(value: object) -> list[str]:
    """The text of a value, or the texts in a list of them."""
    values = value if isinstance(value, list | tuple) else (value,)
    return [each for each in values if isinstance(each, str)]


def _is_reserved(text: str) -> bool:
    return f".{text}".endswith(_NAMES) or text.startswith(_ADDRESSES)
