"""The node's key: made once, by the node's own image, and never again."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys import scripts
from deploys.manifest import ACCESS_RECORD
from deploys.operations.planning import DECIDED_AT_RUN_TIME, step, will_follow
from deploys.preflight.key import access_files, arguments, explain_refusal
from deploys.settings import Settings
from deploys.transport import remote
from facts.access import AccessList


@operation()
def key_made(settings: Settings) -> Generator[PyinfraCommand, None, None]:
    """Make the key when there never was one, take over one of others, and stop the host when a recorded one is gone.

    + settings: the host's settings
    """
    words = arguments(settings)
    success, output = remote.run(host, scripts.shell("node_key.sh", "state", *words))
    state = output[-1] if success and output else "unreadable"
    if state == "ok":
        host.noop("the node has its key")
        return
    problem = explain_refusal(state, settings)
    if problem is not None:
        yield remote.fail(problem)
    elif state in ("unrecorded", "mode"):
        yield StringCommand(scripts.shell("node_key.sh", "record", *words))
    elif state in ("missing", "legacy"):
        verb = "make" if state == "missing" else "adopt"
        yield StringCommand(scripts.shell("node_key.sh", verb, *words, settings.node_image))
    else:
        yield remote.fail(f"the state of the node's key could not be read: {' '.join(output)}")


@operation()
def public_kept(settings: Settings, inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Keep the public part of the present key, which the node's access list needs.

    + settings: the host's settings
    + inputs: operations of this run that make or record the key
    """
    if will_follow(inputs):
        yield DECIDED_AT_RUN_TIME
        return
    if host.get_fact(AccessList, **access_files(ACCESS_RECORD), port=None).own is not None:
        host.noop("the public part of the key is kept")
        return
    yield StringCommand(scripts.shell("node_key.sh", "public", *arguments(settings), settings.node_image))


@step("Make the node's key")
def make_key(settings: Settings) -> list[OperationMeta]:
    made = key_made(name="Make the node's key", settings=settings)
    return [made, public_kept(name="Keep the node's public key", settings=settings, inputs=[made])]
