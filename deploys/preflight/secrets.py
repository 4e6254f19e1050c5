"""Whether the node's secrets can be kept on a host."""

from __future__ import annotations

from deploys.assessment.verdict import Findings
from deploys.manifest import PASSPHRASE_SECRET, PASSWORD_SECRET, URL_SECRET
from facts.secret_store import SecretStoreState

# The secrets of a node, all of which a deploy may read, write or remove.
NAMES = (PASSWORD_SECRET, URL_SECRET, PASSPHRASE_SECRET)


def judge_secrets(store: SecretStoreState, findings: Findings) -> None:
    """Refuse a damaged store: Podman then says that a secret is not there, and refuses to make it."""
    if store.is_busy:
        findings.refusals.append(
            "Podman does not answer in time; expected the list of its secrets. Another process may hold its lock, such "
            "as the pull of an image by a run that was killed: wait until `pgrep -a podman` there shows none that "
            "pulls, then run again."
        )
        return
    if store.problem is not None:
        state = f"cannot be listed ({store.problem})"
    elif store.damaged:
        name, why = store.damaged[0]
        state = f"lists {name}, which cannot be read ({why})"
    else:
        return
    others = [name for name in store.listed if name not in NAMES]
    theirs = f", and you make {', '.join(others)} again" if others else ""
    findings.refusals.append(
        f"Podman's secret store {store.path} {state}; expected it to be readable. Restore it from a backup, or move "
        f"it away (mv {store.path} {store.path}.damaged) and run again: the deploy makes its own secrets again{theirs}."
    )
