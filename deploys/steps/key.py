"""The node's key: made once, by the node's own image, and never again."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys import remote, scripts
from deploys.planning import DECIDED_LATER, will_follow
from deploys.settings import Settings
from facts.access import AccessList
from facts.unit import NODE_INPUTS

FINGERPRINT = "/etc/gevulot/node-key.sha256"
PUBLIC = "/etc/gevulot/node-key.public"


def arguments(settings: Settings) -> tuple[str, str, str]:
    """Key directory, fingerprint file, and where the install guide put the key."""
    return settings.key_directory, FINGERPRINT, f"{settings.storage_directory}/node.key"


# Prints a line when the node's Quadlet is of a deploy that mounted the key into the container.
WAS_READABLE = f"grep -s ':/etc/gevulot-key:' {NODE_INPUTS[0]} || true"


def readable_until_now(settings: Settings) -> str:
    """The warning for a node whose key lay in its container, with the only full remedy."""
    key = f"{settings.key_directory}/node.key"
    return (
        f"the node's key could be read at port {settings.http_port} by everybody who could reach that port, since its "
        "file was mounted into the node's container. This deploy takes it out. If others could reach the port, "
        "consider the key known: only a new identity is a full remedy. For one, after this run: systemctl stop "
        f"gevulot-node; move {key} and {FINGERPRINT} away; run this deploy again; replace the old public key by the "
        "new one wherever it is listed."
    )


def refusal(state: str, settings: Settings) -> str | None:
    """Why a key in this state must stop the run, with the way out; ``None`` when it need not."""
    directory, fingerprint, legacy = arguments(settings)
    key = f"{directory}/node.key"
    return {
        "lost": f"{key} is missing, but {fingerprint} records one. Expected the node's key: mount the storage volume, "
        f"or bring the key back from your backup. Only to give the node a new identity, remove {fingerprint}.",
        "changed": f"{key} is not the key that {fingerprint} records. Expected the node's own: bring it back from your "
        f"backup; or, to keep the present one, remove {fingerprint}.",
        "size": f"{key} is not 32 bytes long, so it is no node key. Bring it back from your backup, or move it away.",
        "legacy": f"{legacy} holds a key, where the node would serve it to its peers, and {key} does not exist. "
        f"To keep this identity: install -d -m 700 {directory} && mv {legacy} {key}; then run again.",
    }.get(state)


@operation()
def key_made(settings: Settings) -> Generator[PyinfraCommand, None, None]:
    """Make the key when there never was one, and stop the host when a recorded one is not there.

    + settings: the host's settings
    """
    words = arguments(settings)
    success, output = remote.run(host, scripts.shell("node_key.sh", "state", *words))
    state = output[-1] if success and output else "unreadable"
    if state == "ok":
        host.noop("the node has its key")
        return
    problem = refusal(state, settings)
    if problem is not None:
        yield remote.fail(problem)
    elif state in ("unrecorded", "mode"):
        yield StringCommand(scripts.shell("node_key.sh", "record", *words))
    elif state == "missing":
        yield StringCommand(scripts.shell("node_key.sh", "make", *words, settings.node_image))
    else:
        yield remote.fail(f"the state of the node's key could not be read: {' '.join(output)}")


@operation()
def public_kept(settings: Settings, inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Keep the public part of the present key, which the node's access list needs.

    + settings: the host's settings
    + inputs: operations of this run that make or record the key
    """
    if will_follow(inputs):
        yield DECIDED_LATER
        return
    if host.get_fact(AccessList, public=PUBLIC, fingerprint=FINGERPRINT, port=None).own is not None:
        host.noop("the public part of the key is kept")
        return
    yield StringCommand(scripts.shell("node_key.sh", "public", *arguments(settings), settings.node_image))


@deploy("Make the node's key")
def make_key(settings: Settings, access_inputs: list[OperationMeta]) -> None:
    made = key_made(name="Make the node's key", settings=settings)
    kept = public_kept(name="Keep the node's public key", settings=settings, inputs=[made])
    access_inputs.extend((made, kept))
