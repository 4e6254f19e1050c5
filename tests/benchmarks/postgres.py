"""A stand-in for a node's Postgres, which the deploy asks through the SSH connection.

It speaks as much of the protocol (https://www.postgresql.org/docs/current/protocol.html) as a client needs that logs in
with a password and reads: the same exchange, the same work for the client, none of a server's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import multiprocessing
import os
import socket
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

ADDRESS = "127.0.0.1"
ROUNDS = 4096
"""Of SCRAM, as Postgres has it by default."""

_NO_ENCRYPTION = (80877103, 80877104)
_TEXT = 25


@dataclass(frozen=True, slots=True)
class Answers:
    """The password that a client must have, and the rows that every SELECT answers: two columns of text."""

    password: str
    rows: Sequence[tuple[str, str]]


@contextmanager
def server(port: int, answers: Answers) -> Iterator[None]:
    """Listen on this port of 127.0.0.1, in a process of its own. Raises RuntimeError when somebody else does."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
        except OSError as error:
            raise RuntimeError(f"port {port} of {ADDRESS}, where the node's database is looked for: {error}") from error
        listening.listen(1024)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: asyncio.run(_serve(listening, answers)), daemon=True
        )
        process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


async def _serve(listening: socket.socket, answers: Answers) -> None:
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", answers.password.encode(), salt, ROUNDS)

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(IncompleteReadError, ConnectionError):
            await _start(reader, writer)
            if await _log_in(reader, writer, salt, salted):
                await _answer(reader, writer, answers.rows)
        writer.close()

    await (await asyncio.start_server(talk, sock=listening)).serve_forever()


async def _start(reader: StreamReader, writer: StreamWriter) -> None:
    while int.from_bytes((await _body(reader))[:4], "big") in _NO_ENCRYPTION:
        writer.write(b"N")


async def _log_in(reader: StreamReader, writer: StreamWriter, salt: bytes, salted: bytes) -> bool:
    """SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding."""
    _send(writer, b"R", _number(10) + b"SCRAM-SHA-256\0\0")
    # The mechanism's name, a length, and the client's words behind "n,,".
    first = (await _message(reader))[1].partition(b"\0")[2][4:].partition(b",,")[2]
    nonce = dict(part.split(b"=", 1) for part in first.split(b","))[b"r"] + base64.b64encode(os.urandom(18))
    challenge = b"r=%s,s=%s,i=%d" % (nonce, base64.b64encode(salt), ROUNDS)
    _send(writer, b"R", _number(11) + challenge)
    bare, _, proof = (await _message(reader))[1].rpartition(b",p=")
    exchange = b",".join((first, challenge, bare))
    client = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(hashlib.sha256(client).digest(), exchange, "sha256")
    if base64.b64decode(proof) != bytes(a ^ b for a, b in zip(client, signature, strict=True)):
        fields = (b"SFATAL", b"C28P01", b"Mpassword authentication failed", b"")
        _send(writer, b"E", b"".join(field + b"\0" for field in fields))
        return False
    verifier = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), exchange, "sha256")
    _send(writer, b"R", _number(12) + b"v=" + base64.b64encode(verifier))
    _send(writer, b"R", _number(0))
    for name, value in ((b"server_version", b"15"), (b"client_encoding", b"UTF8")):
        _send(writer, b"S", name + b"\0" + value + b"\0")
    _send(writer, b"Z", b"I")
    return True


async def _answer(reader: StreamReader, writer: StreamWriter, rows: Sequence[tuple[str, str]]) -> None:
    state = b"I"
    while True:
        kind, text = await _message(reader)
        if kind != b"Q":
            return
        word = text.rstrip(b"\0").split()[0].upper()
        if word == b"SELECT":
            columns = (name + b"\0" + _number(0, 4) + _number(0, 2) + _number(_TEXT) for name in (b"kind", b"value"))
            # Of any size, of no modifier, and as text.
            _send(writer, b"T", _number(2, 2) + b"".join(each + b"\xff" * 6 + _number(0, 2) for each in columns))
            for row in rows:
                values = (value.encode() for value in row)
                _send(writer, b"D", _number(2, 2) + b"".join(_number(len(value)) + value for value in values))
            word += b" %d" % len(rows)
        else:
            state = b"T" if word == b"BEGIN" else b"I"
        _send(writer, b"C", word + b"\0")
        _send(writer, b"Z", state)


async def _message(reader: StreamReader) -> tuple[bytes, bytes]:
    return await reader.readexactly(1), await _body(reader)


async def _body(reader: StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(4), "big")
    return await reader.readexactly(length - 4)


def _send(writer: StreamWriter, kind: bytes, body: bytes) -> None:
    writer.write(kind + _number(len(body) + 4) + body)


def _number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big")
