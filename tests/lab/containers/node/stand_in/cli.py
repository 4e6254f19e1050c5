"""The command line of `/gevulot`. Exit codes: 0 done, 1 failed, 2 used wrongly, as the real one."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import socket
import sys
from pathlib import Path

from . import NOTICE, database, devices, keys, settings
from .log import complain, log, notice, panic

KEY_FILE = Path("/var/lib/gevulot/node.key")
# What a panic ends a Rust program with.
PANICKED = 101
FAILURES = (keys.KeyFileError, database.DatabaseError, devices.DeviceError, settings.SettingError)


def parser() -> argparse.ArgumentParser:
    """The commands of both eras of the node, and the stand-in's own."""
    top = argparse.ArgumentParser("gevulot", description=NOTICE, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", required=True)

    generate = commands.add_parser("generate").add_subparsers(dest="target", required=True)
    for name in ("node-key", "key"):
        generate.add_parser(name).add_argument("--key-file", type=Path, default=KEY_FILE)
    show = commands.add_parser("show").add_subparsers(dest="target", required=True)
    show.add_parser("public-key").add_argument("--key-file", type=Path, default=KEY_FILE)

    url = os.environ.get("GEVULOT_DB_URL", settings.DEFAULT_DB_URL)
    commands.add_parser("migrate").add_argument("--db-url", default=url)
    peer = commands.add_parser("peer")
    peer.add_argument("peer", metavar="PUBKEY")
    operations = peer.add_subparsers(dest="operation", required=True)
    for name in ("whitelist", "deny"):
        operations.add_parser(name).add_argument("--db-url", default=url)

    settings.add_flags(commands.add_parser("run", allow_abbrev=False))
    program = commands.add_parser("stand-in-program", help="run a program on the node that runs here")
    program.add_argument("--slowness", type=float, default=1, help="factor of the limits of the machine's start")
    program.add_argument("--limit", type=float, default=600, help="seconds to wait for the result")
    return top


def generate(given: argparse.Namespace) -> int:
    """`generate node-key` and `generate key`: a new key; its public key on standard output."""
    if given.target == "node-key":
        print("`generate node-key` is deprecated: use `generate key`", file=sys.stderr)
    print(keys.generate(given.key_file))
    return 0


def show(given: argparse.Namespace) -> int:
    """`show public-key`."""
    print(keys.public_key(keys.read(given.key_file)))
    return 0


def migrate(given: argparse.Namespace) -> int:
    """`migrate`: brings the tables to this release; nothing to do is no failure."""
    notice(NOTICE)
    applied = database.migrate(given.db_url)
    for name in applied:
        log("info", f"applied migration {name}")
    log("info", f"{len(applied)} of {len(database.MIGRATIONS)} migrations applied")
    return 0


def peer(given: argparse.Namespace) -> int:
    """`peer PUBKEY whitelist|deny`."""
    if not keys.is_public_key(given.peer):
        complain("public key parse error: expected 130 hexadecimal digits, a point of secp256k1")
        return 1
    database.set_trust(given.db_url, given.peer.lower(), trusted=given.operation == "whitelist")
    return 0


def run(given: argparse.Namespace) -> int:
    """`run`: the node, until a signal ends it.

    As the real one it handles none: as process 1 of a container it ignores SIGTERM and SIGINT, and
    below an init it ends at once.
    """
    # Python's own handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    notice(NOTICE)
    # Here, since the one-shot commands need none of it and importing it takes its time.
    from . import services

    chosen = settings.from_environment(vars(given))
    if chosen.provider != "qemu":
        raise settings.SettingError(f"invalid value {chosen.provider!r} for '--provider'")
    # Read once, before the database and before any port is open. It may be a FIFO.
    public = keys.public_key(keys.read(chosen.node_key_file))
    log("info", f"node public key {public}")
    if chosen.p2p_psk_passphrase == settings.PANGRAM:
        log("warn", "GEVULOT_PSK_PASSPHRASE is not set: using the publicly known default")
    if chosen.acl_whitelist_url is not None:
        log("info", "GEVULOT_ACL_WHITELIST_URL is set: a stand-in does not fetch it")
    log("info", f"Postgres {database.require_tables(chosen.db_url)}: all tables found")
    chosen.log_directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            start(chosen, public, held)
        except services.NoPeerError as error:
            log("error", str(error))
            return 1
        except services.ListenError as error:
            complain(str(error))
            return 1
        except VsockError as error:
            panic("crates/node/src/scheduler/mod.rs:128:68", f"vsock bind: {error}")
            return PANICKED
        log("info", "running")
        while True:
            signal.pause()


def start(chosen: settings.Settings, public_key: str, held: contextlib.ExitStack) -> None:
    """Checks the devices and opens the listeners; `held` keeps open what the node holds."""
    from . import calls, scheduler, services

    programs = None
    if not chosen.no_execution:
        listener = held.enter_context(vsock_listener(chosen.vsock_listen_port))
        devices.require_for_programs()
        programs = scheduler.Scheduler(chosen, public_key)
        calls.listen(listener, programs.answer)
        log("info", f"listening for programs at vsock port {chosen.vsock_listen_port}")
        if chosen.gpu_devices is not None:
            groups = devices.require_gpus(chosen.gpu_devices)
            log("info", f"GPU devices {list(chosen.gpu_devices)} in VFIO groups {groups}")
    state = services.State(chosen, programs)
    services.listen_for_peers(chosen)
    files = (chosen.p2p_listen_addr[0], chosen.http_download_port)
    services.serve("file downloads", files, services.Files, state)
    for peer in services.join_peers(chosen):
        held.enter_context(peer)
    services.serve("JSON-RPC", chosen.json_rpc_listen_addr, services.Rpc, state)
    if chosen.metrics_listen_addr:
        services.serve("metrics", chosen.metrics_listen_addr, services.Metrics, state)
    # As the real node, one that executes nothing has no listener for its health.
    if programs is not None:
        programs.start()
        services.serve("healthcheck", chosen.healthcheck_listen_addr, services.Health, state)


class VsockError(Exception):
    """Nothing can listen on vsock; the message is the error as Rust shows it for debugging."""


def vsock_listener(port: int) -> socket.socket:
    """The listener for programs. Raises VsockError."""
    try:
        return devices.vsock_listener(port)
    except devices.DeviceError as error:
        cause = error.__context__
        if not isinstance(cause, OSError):
            raise
        kind = {"EPERM": "PermissionDenied", "EADDRINUSE": "AddrInUse"}.get(errno.errorcode.get(cause.errno or 0, ""))
        text = f'Os {{ code: {cause.errno}, kind: {kind or "Uncategorized"}, message: "{cause.strerror}" }}'
        raise VsockError(text) from None


def stand_in_program(given: argparse.Namespace) -> int:
    """`stand-in-program`: asks the node of this container to run a program; prints its report."""
    import http.client
    import json

    host, port = settings.from_environment({}).json_rpc_listen_addr
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(loopback, port, timeout=given.limit + 30)
    try:
        params = {"slowness": given.slowness, "limit": given.limit}
        call = {"jsonrpc": "2.0", "id": 1, "method": "stand_in_run_program", "params": params}
        connection.request("POST", "/", json.dumps(call))
        answer = json.loads(connection.getresponse().read())
    except OSError as error:
        complain(f"the node does not answer at {loopback}:{port}: {error}")
        return 1
    if "error" in answer:
        complain(answer["error"]["message"])
        return 1
    print(json.dumps(answer["result"], indent=2))
    return 0


COMMANDS = {
    "generate": generate,
    "show": show,
    "migrate": migrate,
    "peer": peer,
    "run": run,
    "stand-in-program": stand_in_program,
}


def main(arguments: list[str]) -> int:
    """Runs one command and gives its exit code."""
    given = parser().parse_args(arguments)
    try:
        return COMMANDS[given.command](given)
    except FAILURES as error:
        complain(str(error))
        return 2 if isinstance(error, settings.SettingError) else 1
