"""A deploy that is silent for longer than the way to the host keeps a silent connection."""

import json
import os
from pathlib import Path

from pyinfra import host
from pyinfra.operations import python

from deploys.transport import connection, remote

connection.KEEP_ALIVE = 1
if host.data.prepared:
    connection.prepare(host)


def wait(state, host):  # type: ignore[no-untyped-def]
    try:
        outcome = remote.run(host, "sleep 6; echo answered", timeout=12)[1]
    except Exception as error:
        outcome = [type(error).__name__]
    Path(os.environ["PROBED"], host.name).write_text(json.dumps(outcome))
    return True


python.call(name="Wait in silence", function=wait)
