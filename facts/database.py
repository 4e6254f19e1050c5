"""The node's Postgres, as the node itself sees it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any, NamedTuple

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

# What the node's migrations create: its tables, and sqlx's own record.
TABLES = frozenset(
    (
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
    )
)
MIGRATIONS = "_sqlx_migrations"

SCHEMA_QUERY = (
    "SELECT 'release', current_setting('server_version_num') "
    "UNION ALL SELECT 'table', tablename::text FROM pg_tables WHERE schemaname = 'public'"
)


@dataclass(frozen=True, slots=True)
class Schema:
    """A database as a client sees it. ``release`` is the major one."""

    release: int
    tables: frozenset[str]

    @property
    def missing(self) -> list[str]:
        """Missing tables of the node, the record of migrations included."""
        return sorted((TABLES | {MIGRATIONS}) - self.tables)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tables": sorted(self.tables)}


def schema(rows: list[tuple[str, str]]) -> Schema:
    """The rows of ``SCHEMA_QUERY`` as a ``Schema``. Raises ``ValueError`` when the release is not among them."""
    releases = [int(value) // 10000 for kind, value in rows if kind == "release"]
    if not releases:
        raise ValueError("the server did not report its release")
    return Schema(releases[0], frozenset(value for kind, value in rows if kind == "table"))


class PostgresDataRelease(FactBase[str | None]):
    """The release whose data lies in a directory (``15``), or ``None`` when the directory has none."""

    def command(self, directory: str) -> str:
        return f"cat {quote(directory)}/PG_VERSION 2>/dev/null || true"

    def process(self, output: list[str]) -> str | None:
        return output[0].strip() or None


class PostgresLogin(NamedTuple):
    """How a Postgres in a container is reached: ``role`` is that of its database, which has the same name.

    ``secret`` is the Podman secret with the role's password, which the container has as a file.
    """

    container: str
    role: str
    secret: str


# Over loopback, with the password that the container was given; standard input keeps it out of every argument.
_PSQL = (
    'PGCONNECT_TIMEOUT=10 PGPASSWORD="$(cat /run/secrets/{secret})" '
    "psql -X -q -A -t -F ' ' -h 127.0.0.1 -p {port} -U {role} -d {role}"
)


def psql(login: PostgresLogin, port: int) -> str:
    """The command, inside the Postgres container, that connects as the node does and reads SQL from its input."""
    return _PSQL.format(secret=login.secret, port=port, role=login.role)


class PostgresSchema(FactBase[Schema | None]):
    """Release and tables of the node's own Postgres, over loopback with its password; ``None`` when it refuses."""

    def requires_command(self, login: PostgresLogin, port: int) -> str:
        return "podman"

    def command(self, login: PostgresLogin, port: int) -> str:
        inner = f"echo {quote(SCHEMA_QUERY)} | {psql(login, port)}"
        return f"podman exec {login.container} sh -c {quote(inner)} 2>/dev/null || true"

    def process(self, output: list[str]) -> Schema:
        try:
            return schema([(line.split()[0], line.split()[1]) for line in output if line])
        except (ValueError, IndexError) as error:
            raise FactProcessError(f"the database's answer cannot be read: {error}") from error


class PostgresOpenToLoopback(FactBase[bool]):
    """Whether the node's own Postgres accepts connections over loopback without a password."""

    @staticmethod
    def default() -> bool:
        return False

    def requires_command(self, login: PostgresLogin, port: int) -> str:
        return "podman"

    def command(self, login: PostgresLogin, port: int) -> str:
        inner = f"psql -w -h 127.0.0.1 -p {port} -U {login.role} -d {login.role} -c 'SELECT 1'"
        return f"podman exec {login.container} sh -c {quote(inner)} >/dev/null 2>&1 && echo open || echo closed"

    def process(self, output: list[str]) -> bool:
        return output[0].strip() == "open"
