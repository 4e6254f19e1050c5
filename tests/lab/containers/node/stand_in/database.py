"""The node's database: the connection, the migrations and the list of peers that it trusts."""

from __future__ import annotations

import hashlib
import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

# Names and numbers are the real node's; the columns are what a test can look at, not all of them.
MIGRATIONS: tuple[tuple[int, str, str], ...] = (
    (
        20231009111859,
        "programs-table",
        """
        CREATE TABLE program (
            hash VARCHAR(64) PRIMARY KEY, name VARCHAR(128) NOT NULL,
            image_file_name TEXT NOT NULL, image_file_url TEXT NOT NULL,
            image_file_checksum TEXT NOT NULL);
        """,
    ),
    (20231009111925, "tasks-table", "CREATE TABLE task (id UUID PRIMARY KEY, name TEXT NOT NULL);"),
    (
        20231128120351,
        "transactions-table",
        """
        CREATE TABLE transaction (
            hash VARCHAR(64) PRIMARY KEY, author TEXT NOT NULL, kind TEXT NOT NULL,
            nonce NUMERIC NOT NULL, signature TEXT NOT NULL,
            propagated BOOLEAN NOT NULL DEFAULT false, executed BOOLEAN NOT NULL DEFAULT false);
        CREATE TABLE deploy (
            tx VARCHAR(64) PRIMARY KEY REFERENCES transaction (hash) ON DELETE CASCADE,
            name TEXT, prover VARCHAR(64), verifier VARCHAR(64));
        CREATE TABLE workflow_step (
            id BIGSERIAL PRIMARY KEY,
            tx VARCHAR(64) NOT NULL REFERENCES transaction (hash) ON DELETE CASCADE,
            sequence INTEGER NOT NULL, program VARCHAR(64) NOT NULL, args TEXT[]);
        CREATE TABLE program_input_data (
            workflow_step_id BIGINT NOT NULL REFERENCES workflow_step (id) ON DELETE CASCADE,
            file_name TEXT NOT NULL, file_url TEXT NOT NULL, checksum TEXT NOT NULL);
        CREATE TABLE program_output_data (
            workflow_step_id BIGINT NOT NULL REFERENCES workflow_step (id) ON DELETE CASCADE,
            file_name TEXT NOT NULL, source_program VARCHAR(64) NOT NULL);
        CREATE TABLE proof (
            tx VARCHAR(64) PRIMARY KEY REFERENCES transaction (hash) ON DELETE CASCADE,
            parent VARCHAR(64) NOT NULL, prover VARCHAR(64) NOT NULL, proof BYTEA NOT NULL,
            CONSTRAINT unique_parent_prover UNIQUE (parent, prover));
        CREATE TABLE verification (
            tx VARCHAR(64) PRIMARY KEY REFERENCES transaction (hash) ON DELETE CASCADE,
            parent VARCHAR(64) NOT NULL, verifier VARCHAR(64) NOT NULL,
            verification BYTEA NOT NULL);
        CREATE TABLE proof_key (
            tx VARCHAR(64) PRIMARY KEY REFERENCES transaction (hash) ON DELETE CASCADE,
            parent VARCHAR(64) NOT NULL, key BYTEA NOT NULL);
        """,
    ),
    (
        20231128120829,
        "assets-table",
        "CREATE TABLE assets (tx VARCHAR(64) PRIMARY KEY, completed TIMESTAMPTZ);",
    ),
    (
        20240121151959,
        "acl whitelist",
        "CREATE TABLE acl_whitelist (key VARCHAR(130) PRIMARY KEY NOT NULL);",
    ),
    (
        20240202122917,
        "drop unique proof parent prover constraint",
        "ALTER TABLE proof DROP CONSTRAINT unique_parent_prover;",
    ),
    (
        20240212064646,
        "add-program-resource-requirements",
        """
        CREATE TABLE program_resource_requirements (
            program_hash VARCHAR(64) PRIMARY KEY REFERENCES program (hash) ON DELETE CASCADE,
            memory BIGINT NOT NULL, cpus BIGINT NOT NULL, gpus BIGINT NOT NULL);
        """,
    ),
    (
        20240215174342,
        "add txfile and checksum",
        """
        CREATE TABLE txfile (
            tx_id VARCHAR(64) NOT NULL REFERENCES transaction (hash) ON DELETE CASCADE,
            name TEXT NOT NULL, url TEXT NOT NULL, checksum TEXT NOT NULL);
        """,
    ),
    (20240221184329, "remove asset table", "DROP TABLE assets;"),
    (20240222200513, "remove task table", "DROP TABLE task;"),
    (
        20240311123204,
        "add-transaction-timestamp",
        "ALTER TABLE transaction ADD COLUMN created_at TIMESTAMPTZ NOT NULL DEFAULT now();",
    ),
    (
        20240318140915,
        "add-dashboard-notify-trigger-to-transaction",
        """
        CREATE FUNCTION notify_dashboard() RETURNS trigger LANGUAGE plpgsql AS $body$
        BEGIN PERFORM pg_notify('dashboard', NEW.hash); RETURN NEW; END $body$;
        CREATE TRIGGER transaction_notify AFTER INSERT OR UPDATE ON transaction
            FOR EACH ROW EXECUTE FUNCTION notify_dashboard();
        """,
    ),
)
TABLES = (
    "program",
    "transaction",
    "deploy",
    "workflow_step",
    "program_input_data",
    "program_output_data",
    "proof",
    "verification",
    "proof_key",
    "acl_whitelist",
    "program_resource_requirements",
    "txfile",
    "_sqlx_migrations",
)
LEDGER = """
    CREATE TABLE IF NOT EXISTS _sqlx_migrations (
        version BIGINT PRIMARY KEY, description TEXT NOT NULL,
        installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL,
        checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)
"""
# The real node's patience, in seconds: little for `migrate`, more for `run` and `peer`.
MIGRATE_PATIENCE = 0.5
PATIENCE = 30.0
LOCK = 0x3D32AD9E
PASSING = ("Connection refused", "starting up", "shutting down")


class DatabaseError(Exception):
    """The database cannot be used; the message has no secret in it."""


def parameters(url: str) -> dict[str, str]:
    """libpq's parameters from a `postgres://` URL, percent-decoded. Raises DatabaseError.

    Parsed here since libpq's complaint about a malformed URL may quote the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise DatabaseError("error with configuration: the database URL is malformed") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise DatabaseError("error with configuration: the database URL is not postgres://")
    # An encoded directory stands in the host's place; a lower-cased one would be another.
    directory = parts.netloc.rpartition("@")[2].partition(":")[0]
    name = directory if directory.lower().startswith("%2f") else parts.hostname or "localhost"
    options = parse_qs(parts.query)
    found = {
        # A host that is an absolute path is the directory of the server's Unix socket.
        "host": options.get("host", [unquote(name)])[0],
        "port": str(port),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname": unquote(parts.path.lstrip("/")),
        "sslmode": options.get("sslmode", ["prefer"])[0],
    }
    return {name: value for name, value in found.items() if value}


@contextmanager
def connected(url: str, patience: float = PATIENCE) -> Iterator[Any]:
    """A connection within so many seconds. Raises DatabaseError.

    A server that refuses or only starts is asked again until then; a refusal of the login is final.
    """
    psycopg2 = importlib.import_module("psycopg2")
    wanted = parameters(url)
    deadline = time.monotonic() + patience
    outcome: list[Any] = []

    def connect() -> None:
        while True:
            try:
                outcome.append(psycopg2.connect(**wanted, connect_timeout=max(2, int(patience))))
                return
            except psycopg2.Error as error:
                if not any(reason in str(error) for reason in PASSING):
                    outcome.append(DatabaseError(str(error).strip()))
                    return
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)

    # In a thread, since libpq's own time-out knows whole seconds only.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(patience)
    if not outcome:
        raise DatabaseError("pool timed out while waiting for an open connection")
    if isinstance(outcome[0], DatabaseError):
        raise outcome[0]
    connection = outcome[0]
    try:
        yield connection
    except psycopg2.Error as error:
        raise DatabaseError(str(error).strip()) from None
    finally:
        connection.close()


def migrate(url: str) -> list[str]:
    """Applies the migrations that are missing, each in a transaction; gives their names."""
    applied = []
    with connected(url, MIGRATE_PATIENCE) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            cursor.execute(LEDGER)
            cursor.execute("SELECT version, success, checksum FROM _sqlx_migrations")
            recorded = {version: (done, bytes(digest)) for version, done, digest in cursor}
        unknown = sorted(set(recorded) - {version for version, _, _ in MIGRATIONS})
        if unknown:
            raise DatabaseError(
                f"migration {unknown[0]} was previously applied but is missing in the resolved migrations"
            )
        connection.autocommit = False
        for version, description, sql in MIGRATIONS:
            checksum = hashlib.sha384(sql.encode()).digest()
            if version in recorded:
                done, digest = recorded[version]
                if not done:
                    raise DatabaseError(f"migration {version} is partially applied; fix it first")
                if digest != checksum:
                    raise DatabaseError(f"migration {version} was previously applied but has been modified")
                continue
            started = time.monotonic_ns()
            with connection, connection.cursor() as cursor:
                cursor.execute(sql)
                cursor.execute(
                    "INSERT INTO _sqlx_migrations"
                    " (version, description, success, checksum, execution_time)"
                    " VALUES (%s, %s, true, %s, %s)",
                    (version, description, checksum, time.monotonic_ns() - started),
                )
            applied.append(f"{version} {description}")
    return applied


def require_tables(url: str) -> str:
    """Fails when a table is missing, as `run` never migrates; gives the server's release."""
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        missing = sorted(set(TABLES) - {name for (name,) in cursor})
        if missing:
            raise DatabaseError(f'relation "{missing[0]}" does not exist (run `migrate` first)')
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0])


def is_trusted(url: str, peer: str) -> bool:
    """Whether a public key is on the whitelist."""
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM acl_whitelist WHERE key = %s", (peer,))
        return cursor.fetchone() is not None


def set_trust(url: str, peer: str, *, trusted: bool) -> None:
    """Puts a peer's public key on the whitelist or takes it off; both may be repeated."""
    if trusted:
        sql = "INSERT INTO acl_whitelist (key) VALUES (%s) ON CONFLICT DO NOTHING"
    else:
        sql = "DELETE FROM acl_whitelist WHERE key = %s"
    with connected(url) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql, (peer,))
