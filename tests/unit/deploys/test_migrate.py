"""The program that migrates, run for real against a Podman that prints what a test sets, and a server that may come."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.deploys.test_templates import render

pytestmark = pytest.mark.commands

# Seconds for which what time heals is tried here.
SECONDS = 3
# Each line of $SAYS is what one try says and then fails; after the last one the migration succeeds.
_PODMAN = r"""#!/bin/sh
echo "$*" >>"$STORE/argv"
tries=$(wc -l <"$STORE/argv")
line=$(sed -n "${tries}p" "$STORE/says")
[ -n "$line" ] || line=$(cat "$STORE/always" 2>/dev/null)
[ -n "$line" ] || { echo "11 of 11 migrations applied"; exit 0; }
printf '%b\n' "$line" >&2
exit 1
"""


@dataclass
class Migration:
    """A directory with the program, its Podman, and the port of its database."""

    root: Path
    port: int

    def start(self, *says: str, always: str = "") -> subprocess.Popen[str]:
        (self.root / "says").write_text("".join(f"{line}\n" for line in says))
        (self.root / "always").write_text(always)
        return subprocess.Popen(
            [sys.executable, "-I", str(self.root / "migrate"), "127.0.0.1", str(self.port), "an/image:1"],
            env={"PATH": f"{self.root}:{os.environ['PATH']}", "STORE": str(self.root)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *says: str, always: str = "") -> tuple[int, str]:
        process = self.start(*says, always=always)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    @property
    def tries(self) -> list[str]:
        path = self.root / "argv"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def migration(tmp_path: Path) -> Iterator[Migration]:
    program = render("usr/local/libexec/gevulot/migrate")
    program = re.sub(r"^SECONDS = .*", f"SECONDS = {SECONDS}", program, flags=re.MULTILINE)
    (tmp_path / "migrate").write_text(re.sub(r"^PAUSE = .*", "PAUSE = 0.1", program, flags=re.MULTILINE))
    (tmp_path / "podman").write_text(_PODMAN)
    (tmp_path / "podman").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Migration(tmp_path, server.getsockname()[1])


def test_a_migration_that_succeeds_says_so_in_the_images_own_words(migration: Migration) -> None:
    assert migration.run() == (0, "11 of 11 migrations applied\n")
    (command,) = migration.tries
    # As one that runs without an init ignores SIGTERM, a stop would take as long as it may.
    assert command.startswith("run --rm --replace --name=gevulot-migrate --network=host --log-driver=none --init ")
    assert command.endswith(" --volume=/run/a:/run/b:ro,z --env=GEVULOT_DB_URL=c?d an/image:1 migrate")


@pytest.mark.parametrize(
    "says",
    [
        "Error: pool timed out while waiting for an open connection",
        "error communicating with database: Connection refused (os error 111)",
        "error communicating with database: expected to read 5 bytes, got 0 bytes at EOF",
        "error returned from database: FATAL: the database system is starting up",
        "error returned from database: the database system is not yet accepting connections",
        "FATAL: sorry, too many clients already",
        "FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  terminating connection due to administrator command",
        "server closed the connection unexpectedly",
        "failed to lookup address information: Temporary failure in name resolution",
        'could not translate host name "db.example.net" to address: Name or service not known',
        "No route to host (os error 113)",
        'Error: pinging container registry quay.io: Get "https://quay.io/v2/": dial tcp: lookup quay.io: i/o timeout',
        "deadlock detected",
    ],
)
def test_what_time_heals_is_tried_again(migration: Migration, says: str) -> None:
    code, output = migration.run(says, says)
    assert code == 0
    assert len(migration.tries) == 3
    assert output.count(says) == 2


@pytest.mark.parametrize(
    "says",
    [
        'error returned from database: password authentication failed for user "gevulot"',
        # Both of a name's addresses are tried, and one has no server.
        "connection to ::1 failed: Connection refused\\nconnection to 127.0.0.1 failed: FATAL: password authentication "
        'failed for user "gevulot"',
        'FATAL:  no pg_hba.conf entry for host "203.0.113.7", user "gevulot", database "gevulot", no encryption',
        'database "gevulot" does not exist',
        'role "gevulot" does not exist',
        "permission denied for schema public",
        "migration 20231009111859 was previously applied but is missing in the resolved migrations",
        "migration 20231009111859 is partially applied; fix it first",
        'relation "program" already exists',
        "error: unrecognized subcommand 'migrate'",
        "Error: crun: executable file `migrate` not found in $PATH: No such file or directory: OCI runtime attempted",
        "error with configuration: invalid port number",
        "Error: manifest unknown",
        "what nobody thought of",
    ],
)
def test_anything_else_ends_at_once(migration: Migration, says: str) -> None:
    code, output = migration.run(always=says)
    assert code == 1
    assert len(migration.tries) == 1
    assert says.split("\\n")[0] in output


def test_an_applied_migration_in_the_log_does_not_make_a_lost_connection_final(migration: Migration) -> None:
    code, _ = migration.run("INFO applied migration 20231009111859 programs-table\\nConnection reset by peer")
    assert (code, len(migration.tries)) == (0, 2)


def test_what_time_does_not_heal_after_all_ends_too(migration: Migration) -> None:
    started = time.monotonic()
    code, output = migration.run(always="Error: pool timed out while waiting for an open connection")
    assert code == 1
    assert SECONDS <= time.monotonic() - started < SECONDS + 10
    assert len(migration.tries) > 3
    assert f"the migration still fails after {SECONDS} s, with exit code 1" in output


def test_the_migration_waits_for_a_server_and_prints_the_reason(migration: Migration) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = migration.port = server.getsockname()[1]
    timer = threading.Timer(1.5, lambda: waiting.append(socket.create_server(("127.0.0.1", port))))
    waiting: list[socket.socket] = []
    timer.start()
    code, output = migration.run()
    timer.join()
    waiting[0].close()
    assert code == 0
    assert output.count(f"waiting for the database at 127.0.0.1:{port}: [Errno 111] Connection refused") == 1


def test_a_server_that_never_comes_is_named(migration: Migration) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        migration.port = server.getsockname()[1]
    code, output = migration.run()
    assert (code, migration.tries) == (1, [])
    assert output.splitlines()[-1].startswith(
        f"Error: no answer from the database at 127.0.0.1:{migration.port} within {SECONDS} s: "
    )


def test_a_stop_ends_it(migration: Migration) -> None:
    process = migration.start(always="Error: pool timed out while waiting for an open connection")
    time.sleep(0.5)
    process.terminate()
    assert process.wait(timeout=5) == -15
