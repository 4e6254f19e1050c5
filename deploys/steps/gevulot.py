"""The node itself: its passphrase, its migration, its Quadlet."""

from __future__ import annotations

from pyinfra.api.operation import OperationMeta
from pyinfra.operations import systemd

from deploys.manifest import (
    HAND_OVER,
    KEY_PROGRAM,
    KEY_SERVICE,
    KEY_UNIT,
    MIGRATION_PROGRAM,
    MIGRATION_SERVICE,
    MIGRATION_UNIT,
    NODE_ENVIRONMENT,
    NODE_QUADLET,
    NODE_UNIT,
    PASSPHRASE_SECRET,
    PCIBIND_UNIT,
    POSTGRES_UNIT,
    UPDATE_TIMER,
    URL_SECRET,
)
from deploys.operations import secrets, timer, units
from deploys.operations.files import Files
from deploys.operations.pending_reboot import PendingReboot
from deploys.operations.planning import step
from deploys.settings import Settings
from deploys.steps import postgres, vsock
from deploys.steps.preflight import Node

# The same path on the host and in the container; gone as soon as the node has read it.
KEY_FIFO = "/run/gevulot-key/node.key"
# Seconds between the container's start and the key's reading: an older node waits for its database first.
_KEY_READ = 60


def database_address(settings: Settings) -> tuple[str, int]:
    """Host and port of the database as the node reaches it."""
    url = settings.external_database
    if url is None:
        return "127.0.0.1", settings.postgres_port
    return url.hostname or "", url.port or 5432


@step("Configure the node")
def configure_node(node: Node, after: list[OperationMeta]) -> list[OperationMeta]:
    """Returns the operations that write what the node reads. ``after`` are those that write other units."""
    settings = node.settings
    gpu = settings.gpu_functions if node.verdict.config.boards else ""
    database_host, database_port = database_address(settings)
    passphrase = secrets.secret(
        name="Set the network's passphrase",
        secret_name=PASSPHRASE_SECRET,
        source="stdin",
        value=settings.psk_passphrase,
    )
    files = Files()
    environment = files.template(
        NODE_ENVIRONMENT,
        environment=settings.environment()
        | {"GEVULOT_NODE_KEY_FILE": KEY_FIFO}
        | ({"GEVULOT_DB_URL": postgres.socket_url(settings)} if settings.own_postgres else {}),
    )
    migrate = files.template(MIGRATION_PROGRAM, options=list(postgres.client_options(settings)))
    migration = files.template(
        MIGRATION_SERVICE,
        own_postgres=settings.own_postgres,
        storage=settings.storage_directory,
        database_host=database_host,
        database_port=database_port,
        image=settings.node_image,
    )
    program = files.template(KEY_PROGRAM)
    allow_vsock = vsock.write_program(settings, files)
    hand_over = files.template(
        KEY_SERVICE,
        key=settings.key_directory,
        seconds=settings.start_timeout + _KEY_READ,
    )
    if not settings.auto_update:
        timer.restore_timer(name="Disable automatic updates")
    quadlet = files.template(
        NODE_QUADLET,
        image=settings.node_image,
        auto_update=settings.auto_update,
        own_postgres=settings.own_postgres,
        gpu=gpu,
        devices=HAND_OVER,
        seccomp_profile=settings.seccomp_profile,
        allow_vsock=vsock.is_allowed_by_us(settings),
        storage=settings.storage_directory,
        data=settings.data_directory,
        socket=postgres.SOCKET,
        start_timeout=settings.start_timeout,
    )
    units.daemon_reload(
        name="Reload systemd",
        units=(
            PCIBIND_UNIT,
            MIGRATION_UNIT,
            KEY_UNIT,
            NODE_UNIT,
            *((POSTGRES_UNIT,) if settings.own_postgres else ()),
        ),
        inputs=[migration, hand_over, quadlet, *after],
    )
    return [passphrase, environment, migrate, migration, program, allow_vsock, hand_over, quadlet]


@step("Start the node")
def start_node(settings: Settings, reboot: PendingReboot, after: list[OperationMeta]) -> None:
    """Starts the node, which pulls its migration in. Both read the same image and URL, so both follow a change."""
    units.run_unit(
        name="Start the node",
        unit=NODE_UNIT,
        reboot=reboot,
        inputs=after,
        settings=settings,
        timeout=settings.start_timeout,
        readiness=units.expect_node(settings),
        image=settings.node_image,
        secrets=(PASSPHRASE_SECRET, *(() if settings.own_postgres else (URL_SECRET,))),
    )
    if settings.own_postgres:
        # After the start: a node that still runs with an earlier configuration needs it to start again.
        secrets.secret(name="Remove the database's URL with its password", secret_name=URL_SECRET, source="none")
    if settings.auto_update:
        systemd.service(name="Enable automatic updates", service=UPDATE_TIMER, running=True, enabled=True)
