#!/usr/bin/python3
"""A read-only container registry over one OCI image layout, for machines of the lab to pull from.

    registry.py LAYOUT                          one HTTP connection on standard input and output
    registry.py LAYOUT --listen ADDRESS:PORT    a threaded server

The first form is started by QEMU's user networking (`guestfwd=…-cmd:`) for every connection that
the guest opens, so it imports little and speaks HTTP/1.1 by itself. It serves the pull half of the
OCI distribution specification: `/v2/`, manifests by tag or digest, blobs, and the list of tags.
An image is found by its `org.opencontainers.image.ref.name` in the layout's index, which is the
repository's name and the tag, such as `stand-in/postgres:15`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

REF_NAME = "org.opencontainers.image.ref.name"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
ROUTE = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs|tags)/(?P<reference>[^/]+)\Z")
CHUNK = 1 << 20
LONGEST_LINE = 16 << 10
IDLE_SECONDS = 300.0
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class Answer(NamedTuple):
    """What one request is answered with: the body is bytes, or the path of a file and its size."""

    status: int
    content_type: str
    body: bytes = b""
    file: tuple[str, int] | None = None
    digest: str | None = None


def failure(status: int, code: str, message: str) -> Answer:
    """An error in the form that the distribution specification gives."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Answer(status, "application/json", body)


def descriptors(layout: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, tag and descriptor of each image of the layout."""
    with open(os.path.join(layout, "index.json"), "rb") as index:
        manifests = json.load(index)["manifests"]
    for descriptor in manifests:
        name, colon, tag = descriptor.get("annotations", {}).get(REF_NAME, "").rpartition(":")
        if colon:
            yield name, tag, descriptor


def blob(layout: str, digest: str, content_type: str) -> Answer:
    """The blob of a digest, or the specification's error when the layout does not have it."""
    if not DIGEST.match(digest):
        return failure(400, "DIGEST_INVALID", digest)
    path = os.path.join(layout, "blobs", "sha256", digest.partition(":")[2])
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        return failure(404, "BLOB_UNKNOWN", digest)
    return Answer(200, content_type, file=(path, size), digest=digest)


def answer(layout: str, method: str, target: str) -> Answer:
    """Decides what a request gets. Pure but for reading the layout."""
    if method not in ("GET", "HEAD"):
        return failure(405, "UNSUPPORTED", "this registry is read-only")
    path = target.partition("?")[0]
    if path in ("/v2", "/v2/"):
        return Answer(200, "application/json", b"{}")
    route = ROUTE.match(path)
    if route is None:
        return failure(404, "NAME_UNKNOWN", path)
    name, kind, reference = route["name"], route["kind"], route["reference"]
    images = [(tag, found) for repository, tag, found in descriptors(layout) if repository == name]
    if not images:
        return failure(404, "NAME_UNKNOWN", name)
    if kind == "blobs":
        return blob(layout, reference, "application/octet-stream")
    if kind == "manifests":
        for tag, descriptor in images:
            if reference in (tag, descriptor["digest"]):
                return blob(layout, descriptor["digest"], descriptor["mediaType"])
        return failure(404, "MANIFEST_UNKNOWN", f"{name}:{reference}")
    if reference != "list":
        return failure(404, "NAME_UNKNOWN", path)
    listing = {"name": name, "tags": [tag for tag, _ in images]}
    return Answer(200, "application/json", json.dumps(listing).encode())


def send_all(output: int, data: bytes | memoryview) -> None:
    """Writes everything: a socket may take less than it is offered."""
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


def send_file(output: int, path: str, size: int) -> None:
    """Streams a file without holding it. Falls back to copying where sendfile is refused."""
    with open(path, "rb", buffering=0) as source:
        offset = 0
        while offset < size:
            try:
                sent = os.sendfile(output, source.fileno(), offset, CHUNK)
            except OSError:
                block = os.pread(source.fileno(), CHUNK, offset)
                send_all(output, block)
                sent = len(block)
            if sent == 0:
                raise EOFError(f"{path} is shorter than {size} bytes")
            offset += sent


def send(output: int, given: Answer, *, head: bool, keep: bool) -> None:
    """Writes the answer; a HEAD gets the same header without the body."""
    length = given.file[1] if given.file else len(given.body)
    lines = [
        f"HTTP/1.1 {given.status} {REASONS[given.status]}",
        "Docker-Distribution-API-Version: registry/2.0",
        f"Content-Type: {given.content_type}",
        f"Content-Length: {length}",
        f"Connection: {'keep-alive' if keep else 'close'}",
    ]
    if given.digest:
        lines.append(f"Docker-Content-Digest: {given.digest}")
    header = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    send_all(output, header if head else header + given.body)
    if given.file and not head:
        send_file(output, *given.file)


def read_request(source: BinaryIO) -> tuple[str, str, str, dict[str, str]] | None:
    """Method, target, version and header (names in lower case), or None at the connection's end.

    Raises ValueError for what is no HTTP request.
    """
    first = source.read(1)
    if not first:
        return None
    # A client tries TLS first, even where it may go on without. Its greeting has no line to wait
    # for the end of, and it waits for an answer itself.
    if not first.isupper():
        raise ValueError("not HTTP")
    line = first + source.readline(LONGEST_LINE)
    method, target, version = line.decode("latin-1").split()
    header: dict[str, str] = {}
    while (line := source.readline(LONGEST_LINE)) not in (b"\r\n", b"\n"):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or len(header) > 100:
            raise ValueError("not a header line")
        header[name.strip().lower()] = value.strip()
    return method, target, version, header


def serve(layout: str, source: BinaryIO, output: int) -> None:
    """Answers the requests of one connection until its other end has no more of them."""
    try:
        while True:
            try:
                request = read_request(source)
            except ValueError:
                send(output, failure(400, "UNSUPPORTED", "bad request"), head=False, keep=False)
                return
            if request is None:
                return
            method, target, version, header = request
            # A body is never read here, so what follows it on the connection is lost to us.
            has_body = "transfer-encoding" in header or header.get("content-length", "0") != "0"
            asked_to_close = header.get("connection", "").lower() == "close"
            keep = version == "HTTP/1.1" and not asked_to_close and not has_body
            send(output, answer(layout, method, target), head=method == "HEAD", keep=keep)
            if not keep:
                return
    except (OSError, EOFError):
        # The other end went away, which a client of a registry is free to do at any time.
        return


def serve_standard_streams(layout: str) -> None:
    """Serves the connection that a super-server handed over as standard input and output."""
    # QEMU ties standard error to the connection as well: a message there would corrupt the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # A socket that is handed over may be in its owner's mode, and here a write has to wait.
    os.set_blocking(0, True)
    os.set_blocking(1, True)
    serve(layout, sys.stdin.buffer, sys.stdout.fileno())


def serve_forever(layout: str, host: str, port: int) -> None:
    """Listens, says the address on standard output, and serves each connection in a thread."""
    import threading

    def connection(client: socket.socket) -> None:
        with client, client.makefile("rb") as source:
            client.settimeout(None)
            seconds = int(IDLE_SECONDS).to_bytes(8, "little") + bytes(8)
            # At the socket, since a Python time-out would make its descriptor non-blocking.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            serve(layout, source, client.fileno())

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=64) as listener:
        print(f"serving {layout} on {listener.getsockname()[:2]}", flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=connection, args=(client,), daemon=True).start()


def main(arguments: list[str]) -> int:
    """The command line; 2 when it is used wrongly, as usual."""
    match arguments:
        case [layout]:
            serve_standard_streams(layout)
        case [layout, "--listen", address] if address.rpartition(":")[2].isdecimal():
            host, _, port = address.rpartition(":")
            try:
                serve_forever(layout, host.strip("[]"), int(port))
            except KeyboardInterrupt:
                return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
