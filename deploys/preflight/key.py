"""The state of the node's key, as node_key.sh prints it: use it, adopt it, make one, or refuse the host."""

from __future__ import annotations

from typing import Any

from deploys.assessment.verdict import Findings
from deploys.manifest import NODE_QUADLET, POSTGRES_LOGIN, former_path
from deploys.settings import Settings

FINGERPRINT = "/etc/gevulot/node-key.sha256"
PUBLIC = "/etc/gevulot/node-key.public"


def access_files(record: str) -> dict[str, Any]:
    """Arguments of the fact ``AccessList``: the files about the key, the ``record`` of deploys, and the database."""
    files = {"public": PUBLIC, "fingerprint": FINGERPRINT, "record": record, "former": former_path(record)}
    return {**files, "login": POSTGRES_LOGIN}


def arguments(settings: Settings) -> tuple[str, str, str]:
    """Key directory, fingerprint file, and where the install guide put the key."""
    return settings.key_directory, FINGERPRINT, f"{settings.storage_directory}/node.key"


# Prints a line when the node's Quadlet is of a deploy that mounted the key into the container.
READABLE_KEY_COMMAND = f"grep -s ':/etc/gevulot-key:' {NODE_QUADLET.path} || true"


def warn_of_readable_key(settings: Settings) -> str:
    """The warning for a node whose key was readable in its container, with the only full remedy."""
    key = f"{settings.key_directory}/node.key"
    return (
        f"the node's key was readable at port {settings.http_port} for everybody who could reach that port, since its "
        "file was mounted into the node's container. This deploy removes it there. If others could reach the port, "
        "assume that they know the key: then only a new identity helps. For one, after this run: systemctl stop "
        f"gevulot-node; move {key} and {FINGERPRINT} away; run this deploy again; replace the old public key by the "
        "new one wherever it is listed."
    )


def explain_refusal(state: str, settings: Settings) -> str | None:
    """Why a key in this state must stop the run, with the next step; ``None`` when it need not."""
    directory, fingerprint, legacy = arguments(settings)
    key = f"{directory}/node.key"
    return {
        "lost": f"{key} is missing, but {fingerprint} records one. Expected the node's key: mount the storage volume, "
        f"or restore the key from your backup. Only to give the node a new identity, remove {fingerprint}.",
        "changed": f"{key} is not the key that {fingerprint} records. Expected the node's own: restore it from your "
        f"backup; or, to keep the present one, remove {fingerprint}.",
        "size": f"{key} is not 32 bytes long, so it is no node key. Restore it from your backup, or move it away.",
        "dangling": f"{key} is a link to nothing; expected the node's key. Mount the volume that it points to, or "
        "restore the key from your backup.",
        "legacy-size": f"{legacy}, where the install guide puts the key, is not a file of 32 bytes, so it is no node "
        "key. Restore the key from your backup, or move the file away.",
    }.get(state)


def judge_key(state: str, settings: Settings, findings: Findings) -> None:
    """Refuse a lost or changed key; warn when an existing key is adopted."""
    problem = explain_refusal(state, settings)
    if problem is not None:
        findings.refusals.append(problem)
    elif state == "legacy":
        directory, _, legacy = arguments(settings)
        findings.warnings.append(
            f"{legacy} is a key of a node that was set up before, and becomes this node's: it is copied to "
            f"{directory}/node.key. Remove the first one when the node runs."
        )
    elif state == "unrecorded":
        findings.warnings.append(f"{settings.key_directory}/node.key was there before, and becomes this node's key.")
