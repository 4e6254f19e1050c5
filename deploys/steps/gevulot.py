"""The node itself: its passphrase, its migration, its Quadlet."""

from __future__ import annotations

from urllib.parse import urlsplit

from pyinfra.api import deploy
from pyinfra.operations import systemd

from deploys.operations import files as push
from deploys.operations import secrets, timer, units
from deploys.settings import Settings
from deploys.steps import postgres, vsock
from deploys.steps.preflight import Node
from deploys.steps.reboot_condition import Later

PASSPHRASE = "gevulot-psk-passphrase"
UNIT = "gevulot-node.service"
MIGRATION = "gevulot-migrate.service"
QUADLET = "/etc/containers/systemd/gevulot-node.container"
MIGRATION_FILE = "/etc/systemd/system/gevulot-migrate.service"
MIGRATE = "/usr/local/libexec/gevulot/migrate"
ENVIRONMENT = "/etc/gevulot/node.env"
KEY_UNIT = "gevulot-key.service"
KEY_UNIT_FILE = f"/etc/systemd/system/{KEY_UNIT}"
KEY_PROGRAM = "/usr/local/libexec/gevulot/hand-over-key"
# The same path on the host and in the container; gone as soon as the node has read it.
KEY_FIFO = "/run/gevulot-key/node.key"
# Seconds between the container's start and the key's reading: an older node waits for its database first.
_KEY_READ = 60
HAND_OVER = "/run/pcibind/devices.env"


def database_address(settings: Settings) -> tuple[str, int]:
    """Host and port of the database as the node reaches it."""
    if settings.postgres_url is None:
        return "127.0.0.1", settings.postgres_port
    url = urlsplit(settings.postgres_url.get_secret_value())
    return url.hostname or "", url.port or 5432


@deploy("Configure the node")
def configure_node(node: Node) -> None:
    settings = node.settings
    gpu = settings.gpu_functions if node.verdict.config.boards else ""
    database_host, database_port = database_address(settings)
    passphrase = secrets.secret(
        name="Set the network's passphrase", secret_name=PASSPHRASE, source="stdin", value=settings.psk_passphrase
    )
    files = push.Files()
    environment = files.template(
        ENVIRONMENT,
        environment=settings.environment()
        | {"GEVULOT_NODE_KEY_FILE": KEY_FIFO}
        | ({"GEVULOT_DB_URL": postgres.socket_url(settings)} if settings.own_postgres else {}),
    )
    migrate = files.template(MIGRATE, mode="755", options=list(postgres.client_options(settings)))
    migration = files.template(
        MIGRATION_FILE,
        own_postgres=settings.own_postgres,
        storage=settings.storage_directory,
        database_host=database_host,
        database_port=database_port,
        image=settings.node_image,
    )
    program = files.template(KEY_PROGRAM, mode="755")
    allow_vsock = vsock.write_program(settings, files)
    hand_over = files.template(
        KEY_UNIT_FILE,
        key=settings.key_directory,
        seconds=settings.start_timeout + _KEY_READ,
    )
    if not settings.auto_update:
        timer.restored(name="Switch automatic updates off")
    quadlet = files.template(
        QUADLET,
        image=settings.node_image,
        auto_update=settings.auto_update,
        own_postgres=settings.own_postgres,
        gpu=gpu,
        seccomp_profile=settings.seccomp_profile,
        allow_vsock=vsock.is_allowed_by_us(settings),
        storage=settings.storage_directory,
        data=settings.data_directory,
        socket=postgres.SOCKET,
        start_timeout=settings.start_timeout,
    )
    node.node_inputs.extend((passphrase, environment, migrate, migration, program, allow_vsock, hand_over, quadlet))
    units.reloaded(
        name="Reload systemd",
        units=("pcibind.service", MIGRATION, KEY_UNIT, UNIT, *((postgres.UNIT,) if settings.own_postgres else ())),
        inputs=[migration, hand_over, quadlet, *node.unit_inputs],
    )


@deploy("Start the node")
def start_node(node: Node, later: Later) -> None:
    """Starts the node, which pulls its migration in. Both read the same image and URL, so both follow a change."""
    settings = node.settings
    units.running(
        name="Start the node",
        unit=UNIT,
        later=later,
        inputs=node.node_inputs,
        settings=settings,
        timeout=settings.start_timeout,
        answer=units.node_answer(settings),
        image=settings.node_image,
        files=(
            *(QUADLET, MIGRATION_FILE, MIGRATE, ENVIRONMENT, vsock.PROGRAM, HAND_OVER),
            f"{settings.key_directory}/node.key",
        ),
        secrets=(PASSPHRASE, *(() if settings.own_postgres else (postgres.URL,))),
    )
    if settings.own_postgres:
        # After the start: a node that still runs with an earlier configuration needs it to start again.
        secrets.secret(name="Remove the database's URL with its password", secret_name=postgres.URL, source="none")
    if settings.auto_update:
        systemd.service(
            name="Switch automatic updates on", service="podman-auto-update.timer", running=True, enabled=True
        )
