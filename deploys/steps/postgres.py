"""The database: on the node, by a socket for root and by loopback with a password; or an external server."""

from __future__ import annotations

from collections.abc import Generator
from shlex import quote

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta
from pyinfra.facts.files import FindInFile
from pyinfra.operations import files

from deploys.manifest import (
    HBA,
    IDENT,
    PASSWORD_SECRET,
    POSTGRES_LOGIN,
    POSTGRES_QUADLET,
    POSTGRES_UNIT,
    STATE_DIRECTORIES,
    URL_SECRET,
)
from deploys.operations import secrets, units
from deploys.operations.files import Files
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import DECIDED_AT_RUN_TIME, step, will_follow
from deploys.operations.restore import restore_file
from deploys.settings import Settings
from facts.baseline import BaselineRecord
from facts.database import PostgresSchema, psql

# The image lets everybody into the directory of its socket, so that lies in another one that only root may enter.
SOCKET_ROOT = "/run/gevulot-postgres"
SOCKET = f"{SOCKET_ROOT}/socket"
SOCKET_IN_NODE = "/run/postgresql"
# A server that was killed reads what it had not written to its tables yet, before it answers.
_SECONDS = 900

# Only root's socket takes no password. A statement that fails must not end in the server's log.
_RECONCILE = rf"""
SET log_min_error_statement = panic;
SET log_statement = none;
\set password `cat /run/secrets/{POSTGRES_LOGIN.secret}`
ALTER ROLE {POSTGRES_LOGIN.role} PASSWORD :'password';
"""


def socket_url(settings: Settings) -> str:
    """The URL of the node's own Postgres by its socket, as the node's containers see it. It holds no secret."""
    return f"postgres://gevulot@localhost:{settings.postgres_port}/gevulot?host={SOCKET_IN_NODE}"


def client_options(settings: Settings) -> tuple[str, ...]:
    """The options of ``podman run`` that let a one-shot container of the node's image reach the database."""
    if not settings.own_postgres:
        return (f"--secret={URL_SECRET},type=env,target=GEVULOT_DB_URL",)
    return (
        f"--volume={SOCKET}:{SOCKET_IN_NODE}:ro,z",
        # SELinux keeps one container from another one's socket.
        "--security-opt=label=disable",
        f"--env=GEVULOT_DB_URL={socket_url(settings)}",
    )


@operation()
def password_reconciled(
    port: int, reboot: PendingReboot, inputs: list[OperationMeta]
) -> Generator[PyinfraCommand | str, None, None]:
    """Give the server's role the password of the secret, when the server does not take it.

    The image sets the password only when it makes the data directory.

    + port: the server's loopback port
    + reboot: whether one is pending, which this run has to wait for
    + inputs: operations of this run that change the server or its password
    """
    if reboot.is_planned() or will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    if host.get_fact(PostgresSchema, login=POSTGRES_LOGIN, port=port) is not None:
        host.noop("the server takes the password")
        return
    ready = f"until pg_isready -q -h 127.0.0.1 -p {port}; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 1; done"
    check = f"echo 'SELECT 1' | {psql(POSTGRES_LOGIN, port)} >/dev/null 2>&1"
    role = POSTGRES_LOGIN.role
    change = f"printf %s {quote(_RECONCILE)} | psql -X -q -v ON_ERROR_STOP=1 -p {port} -U {role} -d {role}"
    inner = f"n=0; {ready}; {check} || {{ {change} && {check}; }}"
    yield StringCommand(f"podman exec {POSTGRES_LOGIN.container} sh -c {quote(inner)}")


@step("Make the database's secrets")
def make_database_secrets(settings: Settings) -> OperationMeta:
    if settings.postgres_url is not None:
        return secrets.secret(
            name="Set the database's URL", secret_name=URL_SECRET, source="stdin", value=settings.postgres_url
        )
    if settings.postgres_password is not None:
        return secrets.secret(
            name="Set the database's password",
            secret_name=PASSWORD_SECRET, source="stdin", value=settings.postgres_password,
        )  # fmt: skip
    return secrets.secret(name="Generate the database's password", secret_name=PASSWORD_SECRET, source="generated")


@step("Configure Postgres")
def configure_postgres(settings: Settings) -> list[OperationMeta]:
    if not settings.own_postgres:
        return []
    # Made by root; the image gives it to its own account, whose number differs from image to image.
    directory = settings.postgres_directory
    files.directory(name=f"Make {directory}", path=directory)
    ours = Files()
    return [
        ours.template(HBA),
        ours.template(IDENT),
        ours.template(
            POSTGRES_QUADLET,
            image=settings.postgres_image,
            directory=settings.postgres_directory,
            socket=SOCKET,
            socket_root=SOCKET_ROOT,
            port=settings.postgres_port,
            start_timeout=settings.start_timeout,
        ),
    ]


@step("Start Postgres")
def start_postgres(settings: Settings, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    if not settings.own_postgres:
        return
    units.run_unit(
        name="Start Postgres",
        unit=POSTGRES_UNIT,
        reboot=reboot,
        inputs=after,
        settings=settings,
        timeout=settings.start_timeout,
        # Only a server that has recovered from a crash, or made its data, listens on TCP.
        readiness=units.Readiness(
            f"podman exec {POSTGRES_LOGIN.container} pg_isready -q -h 127.0.0.1 -p {settings.postgres_port}", _SECONDS
        ),
        image=settings.postgres_image,
        secrets=(PASSWORD_SECRET,),
    )
    password_reconciled(
        name="Reconcile the database's password",
        port=settings.postgres_port,
        reboot=reboot,
        inputs=after,
    )


@operation()
def retired() -> Generator[PyinfraCommand | str, None, None]:
    """Stop the node's own Postgres and take its unit away. Its data, password and image stay."""
    if not host.get_fact(FindInFile, path=POSTGRES_QUADLET.path, pattern=f"^Secret={PASSWORD_SECRET}"):
        host.noop("there is no Postgres of a deploy")
        return
    yield (
        f"systemctl stop {POSTGRES_UNIT} && rm -f {HBA.path} {IDENT.path} {POSTGRES_QUADLET.path} && "
        "systemctl daemon-reload && "
        f"{{ rmdir {SOCKET} {SOCKET_ROOT} 2>/dev/null; systemctl reset-failed {POSTGRES_UNIT} 2>/dev/null; true; }}"
    )
    remains = host.get_fact(BaselineRecord, directories=STATE_DIRECTORIES)
    if remains and remains.past and POSTGRES_QUADLET.path in remains.past.archived:
        yield from restore_file._inner(path=POSTGRES_QUADLET.path)


@step("Retire Postgres")
def retire_postgres(settings: Settings) -> None:
    """Only after the start of the node, which needs its own Postgres until it runs with the external one."""
    if not settings.own_postgres:
        retired(name="Stop the node's own Postgres and keep its data")
