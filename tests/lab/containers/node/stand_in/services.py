"""The node's listeners: JSON-RPC, healthcheck, metrics, file server and the peer-to-peer port."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote_to_bytes

from . import NOTICE
from .log import log
from .scheduler import Scheduler
from .settings import Address, Settings

PEER_SECONDS = 10.0
NONCE = 32
LIMIT_SECONDS = 600.0
STALL_SECONDS = 10.0


class ListenError(Exception):
    """An address cannot be listened on."""


class NoPeerError(Exception):
    """There are discovery addresses, and none of them answers as a peer."""


@dataclass(frozen=True)
class State:
    """What the listeners share: the settings, and the scheduler of a node that executes programs."""

    settings: Settings
    scheduler: Scheduler | None = None


class Server(socketserver.ThreadingTCPServer):
    """An HTTP server in threads that asks no name server for its own name."""

    allow_reuse_address = True
    daemon_threads = True
    state: State


class Handler(BaseHTTPRequestHandler):
    """The ground of the HTTP listeners."""

    server: Server
    server_version = "gevulot-stand-in"
    sys_version = ""
    timeout = 60

    def log_message(self, format: str, *arguments: Any) -> None:
        log("debug", f"{type(self).__name__} {self.client_address[0]} {format % arguments}")

    def reply(self, status: int, body: bytes = b"", kind: str = "text/plain") -> None:
        """A whole answer."""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Health(Handler):
    """`/healthz`: 200; 503 while a transaction waits for its machine, or the scheduler's loop stands. `/ready`: 204."""

    def do_GET(self) -> None:
        scheduler = self.server.state.scheduler
        if self.path == "/healthz":
            self.reply(200 if scheduler is not None and scheduler.healthy else 503)
        else:
            self.reply(204 if self.path == "/ready" else 404)


class Metrics(Handler):
    """`/metrics` in Prometheus' text format."""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            scheduler = self.server.state.scheduler
            count = scheduler.programs if scheduler is not None else 0
            self.reply(200, f"# {NOTICE}\nstand_in_programs_total {count}\n".encode())
        else:
            self.reply(404)


class Files(Handler):
    """Any file of the container, without a filter, as the real node gives them.

    The request's path without its first slash is joined to the data directory as Rust's
    `Path::join` does it: an absolute path replaces the directory, and `..` leads out of it.
    """

    def do_GET(self) -> None:
        # Not `self.path`, in which Python makes one slash of several.
        target = self.requestline.split()[1].partition("?")[0]
        directory = os.fsencode(self.server.state.settings.data_directory)
        path = os.path.join(directory, unquote_to_bytes(target.removeprefix("/")))
        with contextlib.ExitStack() as held:
            try:
                opened = held.enter_context(open(path, "rb"))
            except (OSError, ValueError):
                self.reply(404)
                return
            self.send_response(200)
            # No length: files of /proc have the size 0. The end of the connection is the end of the file.
            self.end_headers()
            shutil.copyfileobj(opened, self.wfile)


class Rpc(Handler):
    """JSON-RPC 2.0 over `POST /` with two methods, whose parameters are named.

    `stand_in_run_program` waits for the result of a program: at most `limit` seconds, and the limits of its machine's
    start are the real node's times `slowness`. `stand_in_stall` stops the scheduler's loop for some `seconds`.
    """

    def do_GET(self) -> None:
        self.reply(405)

    def do_POST(self) -> None:
        try:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            method, call = request["method"], request.get("id")
            numbers = {name: float(value) for name, value in (request.get("params") or {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return self.result(None, error=(-32600, "invalid request"))
        if method not in ("stand_in_run_program", "stand_in_stall"):
            return self.result(call, error=(-32601, "Method not found (this is a stand-in)"))
        scheduler = self.server.state.scheduler
        if scheduler is None:
            return self.result(call, error=(-32000, "this node executes no programs"))
        if method == "stand_in_stall":
            scheduler.stall(numbers.get("seconds", STALL_SECONDS))
            return self.result(call, result={})
        transaction = scheduler.submit(numbers.get("slowness", 1.0))
        limit = numbers.get("limit", LIMIT_SECONDS)
        if not transaction.done.wait(limit):
            # It stays in the mempool, as with the real node.
            what = f"not finished after {limit:.0f} s and {transaction.starts} starts of QEMU"
            return self.result(call, error=(-32000, f"transaction {transaction.digest}: {what}"))
        if transaction.report is None:
            return self.result(call, error=(-32000, str(transaction.error)))
        return self.result(call, result=transaction.report)

    def result(self, call: Any, *, result: Any = None, error: tuple[int, str] | None = None) -> None:
        """The answer to the call: a result or an error."""
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call}
        if error:
            answer["error"] = {"code": error[0], "message": error[1]}
        else:
            answer["result"] = result
        self.reply(200, json.dumps(answer).encode(), "application/json")


def family(address: Address) -> socket.AddressFamily:
    """The address family of an IP address."""
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def serve(what: str, address: Address, handler: type[Handler], state: State) -> None:
    """Serves HTTP at the address in threads of its own. Raises ListenError."""
    kind = type("Server", (Server,), {"address_family": family(address)})
    try:
        server = kind(address, handler)
    except OSError as error:
        raise ListenError(f"{what} at {address[0]}:{address[1]}: {error.strerror}") from None
    server.state = state
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log("info", f"listening for {what} at {address[0]}:{address[1]}")


def shake_hands(peer: socket.socket, passphrase: str) -> bool:
    """Whether the peer has the same pre-shared key, bytes for bytes. Not the real protocol."""
    key = hashlib.sha256(os.fsencode(passphrase)).digest()
    own = secrets.token_bytes(NONCE)
    peer.settimeout(PEER_SECONDS)
    peer.sendall(own)
    with peer.makefile("rb") as stream:
        peer.sendall(hmac.digest(key, stream.read(NONCE), "sha256"))
        return hmac.compare_digest(stream.read(NONCE), hmac.digest(key, own, "sha256"))


def listen_for_peers(settings: Settings) -> None:
    """Accepts peers and keeps the connections of those with the same key. Raises ListenError."""
    host, port = settings.p2p_listen_addr
    try:
        # As the real node's: at [::] it takes IPv4 too.
        listener = socket.create_server((host, port), family=family((host, port)), dualstack_ipv6=host == "::")
    except OSError as error:
        raise ListenError(f"p2p at {host}:{port}: {error.strerror}") from None

    def keep(peer: socket.socket, address: str) -> None:
        with peer:
            try:
                if not shake_hands(peer, settings.p2p_psk_passphrase):
                    log("warn", f"refused peer {address}: another pre-shared key")
                    return
                log("info", f"connected to peer {address}")
                peer.settimeout(None)
                while peer.recv(4096):
                    pass
            except OSError:
                log("debug", f"peer {address} went away")

    def accept() -> None:
        while True:
            peer, address = listener.accept()
            threading.Thread(target=keep, args=(peer, address[0]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    log("info", f"listening for p2p at {host}:{port}")


def join_peers(settings: Settings) -> list[socket.socket]:
    """Connects to the first discovery address that answers. Raises NoPeerError when none does.

    As the real node does it: what does not resolve or answer is logged and passed over.
    """
    for entry in settings.p2p_discovery_addrs:
        host, _, port = entry.rpartition(":")
        try:
            socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            log("error", f"failed to resolve {entry!r}")
            continue
        try:
            peer = socket.create_connection((host.strip("[]"), int(port)), timeout=PEER_SECONDS)
            if not shake_hands(peer, settings.p2p_psk_passphrase):
                raise OSError("another pre-shared key")
        except OSError as error:
            log("error", f"failed to connect to {entry}: {error}")
            continue
        peer.settimeout(None)
        log("info", f"connected to p2p peer {entry}")
        return [peer]
    if settings.p2p_discovery_addrs:
        raise NoPeerError("Failed to connect to any P2P node. Quitting.")
    return []
