"""The kinds of value that host data is made of, each with its check and with what was expected when it fails."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from pcibind.request import Selector

# What the node falls back to, and what is tried first, without spaces, punctuation and capitals.
# The guide's own placeholder and upstream's test value among them.
_PUBLIC_PASSPHRASES = frozenset(
    (
        *("packmyboxwithfivedozenliquorjugs", "thequickbrownfoxjumpsoverthelazydog"),
        *("coordinatedpresharedkeyforp2pnetwork", "secretpassphrase", "passphrase", "password", "password1"),
        *("changeme", "changemenow"),
    )
)
_PASSPHRASE_LENGTH = 8

# IPv4 addresses as a program sees them that listens on [::] (RFC 4291, 2.5.5.2).
_MAPPED = IPv6Network("::ffff:0:0/96")

_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[0-9A-Za-z.-]+):(?P<port>[0-9]{1,5})")
_DIRECTORY = re.compile(r"(/[A-Za-z0-9._-]+)+")
_IMAGE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?")

_SYSTEM_DIRECTORIES = frozenset(
    "bin boot dev etc home lib lib32 lib64 libx32 proc root run sbin sys tmp usr".split()  # noqa: SIM905
)
# Podman's storage, and what this project keeps on a node.
_OTHERS = {("var", "lib", name) for name in ("containers", "pcibind", "gevulot-deploy")}


def port_of(listen: str) -> int:
    """The port of ``ADDRESS:PORT``."""
    return int(listen.rpartition(":")[2])


def is_loopback(listen: str) -> bool:
    """Whether ``ADDRESS:PORT`` is reachable from the host itself only."""
    address = listen.rpartition(":")[0]
    try:
        return address == "localhost" or ip_address(address.strip("[]")).is_loopback
    except ValueError:
        # A name, whatever it begins with.
        return False


def _board(text: str) -> str:
    return Selector.parse(text.lower()).value


def is_listen(text: str) -> bool:
    """Whether it is ``ADDRESS:PORT``."""
    found = _LISTEN.fullmatch(text)
    return found is not None and 0 < int(found["port"]) < 65536


def _listen(address: str) -> str:
    if not is_listen(address):
        raise ValueError("expected ADDRESS:PORT, for example '0.0.0.0:9999'")
    return address


def _reachable(address: str) -> str:
    if is_loopback(address) or address.rpartition(":")[0] in ("0.0.0.0", "[::]"):
        raise ValueError("expected the address at which peers reach the node, for example '203.0.113.7:9999'")
    return address


def _loopback(address: str) -> str:
    if not is_loopback(address):
        raise ValueError("expected a loopback address, such as '127.0.0.1:8888'")
    return address


def _network(text: Any) -> Any:
    """A network as ``ipaddress`` has it, or the word for everybody."""
    if text == "any":
        return text
    try:
        # Text only: the library also takes numbers, and addresses with the name of an interface.
        interface = ip_interface(text if isinstance(text, str) and "%" not in text else "")
    except ValueError:
        raise ValueError("expected a network such as '203.0.113.0/24' or '2001:db8::/32'") from None
    network = interface.network
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError("expected the IPv4 network itself, since packets carry its addresses: '192.0.2.0/24'")
    if network.prefixlen == 0:
        raise ValueError("expected networks; to let everybody in, write ('any',)")
    if interface.ip != network.network_address:
        raise ValueError(f"expected a network without host bits, probably '{network}'")
    return network


def _directory(path: str) -> str:
    if not _DIRECTORY.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("expected an absolute path of plain characters, such as '/var/lib/gevulot'")
    return path


def _own_directory(path: str) -> str:
    """A directory whose owner and mode are ours to set: never one that other programs or people know."""
    top, *below = path.strip("/").split("/")
    theirs = (
        not below
        or top in _SYSTEM_DIRECTORIES
        or (top == "var" and (len(below) < 2 or below[0] in ("run", "lock", "tmp", "home")))
        or (top, *below[:2]) in _OTHERS
    )
    if theirs:
        raise ValueError("expected a directory of its own, such as '/var/lib/gevulot' or '/data/gevulot'")
    return path


def _image(reference: str) -> str:
    if not _IMAGE.fullmatch(reference):
        raise ValueError("expected a full image reference, such as 'quay.io/gevulot/node:latest'")
    return reference


def _one_line(text: str) -> str:
    if any(character in text for character in "\r\n\0"):
        raise ValueError("expected one line of text")
    return text


def _call(value: Any) -> Any:
    """Secrets may be functions, so that a group's file can be loaded without the secret at hand."""
    try:
        return value() if callable(value) else value
    except (LookupError, OSError) as error:
        # The reader's own words say which variable or file is missing.
        raise ValueError(f"the secret could not be read: {error}") from None


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.strip(" .…") == "":
        raise ValueError("expected a secret that is neither empty nor a placeholder")
    if any(character in text for character in "\r\n\0"):
        # Podman keeps a trailing newline, and the passphrase is hashed as it stands: one byte more means no peers.
        raise ValueError("expected a secret of one line, without a newline at its end")
    return value


# The curve secp256k1: y² = x³ + 7 over this prime (SEC 2, section 2.4.1).
_PRIME = 2**256 - 2**32 - 977
_PUBLIC_KEY = re.compile(r"04([0-9a-f]{64})([0-9a-f]{64})")


def _public_key(text: str) -> str:
    key = text.lower()
    digits = _PUBLIC_KEY.fullmatch(key)
    if digits is None:
        raise ValueError("expected a public key of 130 hexadecimal digits, the first two 04")
    x, y = (int(each, 16) for each in digits.groups())
    if max(x, y) >= _PRIME or (y * y - x * x * x - 7) % _PRIME:
        raise ValueError("expected a public key of secp256k1; this one has a wrong digit")
    return key


def _passphrase(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if "".join(each for each in text.casefold() if each.isalnum()) in _PUBLIC_PASSPHRASES:
        raise ValueError("expected the network's own; this one is public, so everybody could join")
    if len(text) < _PASSPHRASE_LENGTH:
        raise ValueError(f"expected at least {_PASSPHRASE_LENGTH} characters; a shorter one can be guessed")
    return value


Board = Annotated[str, AfterValidator(_board)]
Listen = Annotated[str, AfterValidator(_listen)]
Directory = Annotated[str, AfterValidator(_directory)]
OwnDirectory = Annotated[str, AfterValidator(_directory), AfterValidator(_own_directory)]
Reachable = Annotated[Listen, AfterValidator(_reachable)]
LoopbackListen = Annotated[Listen, AfterValidator(_loopback)]
Image = Annotated[str, AfterValidator(_image)]
Line = Annotated[str, AfterValidator(_one_line)]
Secret = Annotated[SecretStr, BeforeValidator(_call), AfterValidator(_secret)]
Passphrase = Annotated[Secret, AfterValidator(_passphrase)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Network = Annotated[IPv4Network | IPv6Network | Literal["any"], BeforeValidator(_network)]
Port = Annotated[int, Field(gt=0, lt=65536)]
