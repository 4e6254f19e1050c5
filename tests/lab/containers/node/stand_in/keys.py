"""The node's key: 32 raw bytes, a secp256k1 scalar, and the public key that follows from it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

# SEC 2, version 2.0, section 2.4.1.
PRIME = 2**256 - 2**32 - 977
ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
BASE = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
)
Point = tuple[int, int] | None


class KeyFileError(Exception):
    """The key file cannot be made, read or used; the message says which and why."""


def add(left: Point, right: Point) -> Point:
    """The sum of two points of the curve; None is the point at infinity."""
    if left is None or right is None:
        return left or right
    if left[0] == right[0]:
        if (left[1] + right[1]) % PRIME == 0:
            return None
        slope = 3 * left[0] * left[0] * pow(2 * left[1], -1, PRIME) % PRIME
    else:
        slope = (right[1] - left[1]) * pow(right[0] - left[0], -1, PRIME) % PRIME
    x = (slope * slope - left[0] - right[0]) % PRIME
    return x, (slope * (left[0] - x) - left[1]) % PRIME


def public_key(secret: bytes) -> str:
    """The uncompressed public key in hexadecimal, 130 digits from `04`. Raises KeyFileError."""
    scalar = int.from_bytes(secret, "big")
    if len(secret) != 32 or not 0 < scalar < ORDER:
        raise KeyFileError(f"invalid node key: {len(secret)} bytes, expected a scalar of 32")
    point: Point = None
    doubled: Point = BASE
    while scalar:
        if scalar & 1:
            point = add(point, doubled)
        doubled = add(doubled, doubled)
        scalar >>= 1
    assert point is not None
    return f"04{point[0]:064x}{point[1]:064x}"


def is_public_key(text: str) -> bool:
    """Whether the text is a point of the curve in the form that `public_key` gives."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return False
    if len(raw) != 65 or raw[0] != 4:
        return False
    x, y = int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")
    return max(x, y) < PRIME and (y * y - x * x * x - 7) % PRIME == 0


def generate(key_file: Path) -> str:
    """Makes a key in a new file and gives the public key. The file's mode is umask's to decide."""
    secret = (secrets.randbelow(ORDER - 1) + 1).to_bytes(32, "big")
    try:
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:
        raise KeyFileError(f'directory for "{key_file}" doesn\'t exist') from None
    except FileExistsError:
        raise KeyFileError(f'file "{key_file}" already exists') from None
    except OSError as error:
        raise KeyFileError(f"{key_file}: {error.strerror}") from None
    with open(descriptor, "wb") as opened:
        opened.write(secret)
    return public_key(secret)


def read(key_file: Path) -> bytes:
    """The secret in the file. Raises KeyFileError."""
    try:
        return key_file.read_bytes()
    except FileNotFoundError:
        message = "node key not found; please create node-key with: /gevulot generate node-key"
        raise KeyFileError(message) from None
    except OSError as error:
        raise KeyFileError(f"{key_file}: {error.strerror}") from None
