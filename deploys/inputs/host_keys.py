"""The keys of host data that belong to pyinfra, its connectors and its operations.

pyinfra ignores an unknown key, so a mistyped ``ssh_user``, or a ``sudo`` without its underscore, silently changes what
a run does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

from pyinfra.api.arguments import all_argument_meta, auth_argument_meta
from pyinfra.api.connectors import get_all_connectors
from pyinfra.connectors import ssh

from deploys.inputs.spelling import suggest

_TYPES: dict[str, type] = get_type_hints(ssh.ConnectorData)
_KNOWN = frozenset(all_argument_meta).union(*(connector.data_meta for connector in get_all_connectors().values()))
# The keys of the login. Words such as ``timeout`` or ``env`` may be an operator's own data.
_LOGIN = frozenset((*_TYPES, *auth_argument_meta))
# Names for the same in other tools and in common use.
_OTHERS = {
    "hostname": "ssh_hostname",
    "port": "ssh_port",
    "user": "ssh_user",
    "password": "ssh_password",
    "ssh_host": "ssh_hostname",
    "ssh_address": "ssh_hostname",
    "ssh_username": "ssh_user",
    "ssh_login": "ssh_user",
    "ssh_pass": "ssh_password",
    "ssh_private_key": "ssh_key",
    "ssh_private_key_file": "ssh_key",
    "ssh_key_file": "ssh_key",
    "ssh_identity_file": "ssh_key",
    "ssh_passphrase": "ssh_key_password",
    "ssh_config": "ssh_config_file",
    "ssh_known_hosts": "ssh_known_hosts_file",
    "ansible_host": "ssh_hostname",
    "ansible_port": "ssh_port",
    "ansible_user": "ssh_user",
    "ansible_password": "ssh_password",
    "ansible_ssh_private_key_file": "ssh_key",
    "ansible_become": "_sudo",
    "ansible_become_user": "_sudo_user",
    "become": "_sudo",
    "become_user": "_sudo_user",
}
_BOOLEANS = ("_sudo", "_use_sudo_login", "_preserve_sudo_env", "_use_su_login", "_doas", "_dzdo")


def find_problems(data: Mapping[Any, Any]) -> list[str]:
    """The problems with pyinfra's keys in one host's data, a sentence each. No password is shown."""
    texts = [key for key in data if isinstance(key, str)]
    intended = [(key, _intended_key(key, texts)) for key in texts if key not in _KNOWN]
    mistakes = [f"{_quoted(key)}: pyinfra ignores this key; did you mean {known}?" for key, known in intended if known]
    return mistakes + [
        f"{key} is {data[key]!r:.60}: {expected}" for key in texts if (expected := _expected(key, data[key]))
    ]


def _quoted(key: str) -> str:
    return key if key.isidentifier() else f"{key!r:.60}"


def _intended_key(key: str, others: list[str]) -> str | None:
    """The key of pyinfra that a key is a typo of, if any.

    An operator's own data may have any name, so a key is accepted when the key that it resembles is set too.
    """
    plain = key.lower().replace("-", "_")
    if plain in _KNOWN:
        return plain
    known = _OTHERS.get(plain) or (f"_{plain}" if f"_{plain}" in _LOGIN else None)
    if known is not None:
        return None if known in others else known
    if plain.startswith("gevulot_"):
        return None
    typo = suggest(plain, _KNOWN if plain.startswith("_") else _LOGIN)
    if typo is None and plain.startswith("ssh_"):
        return "one of " + ", ".join(sorted(_TYPES))
    return typo


def _expected(key: str, value: object) -> str | None:
    """What was expected of an invalid value; ``None`` for a valid one."""
    if value is None or "password" in key:
        return None
    if key == "ssh_port":
        is_port = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536
        return None if is_port else "expected a port, a whole number between 1 and 65535"
    kind = bool if key in _BOOLEANS else _TYPES.get(key)
    if kind is bool and not isinstance(value, bool):
        return "expected True or False"
    if kind is str and (not isinstance(value, str) or not value.strip() or not value.isprintable()):
        return "expected text on one line"
    return None
