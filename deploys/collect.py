"""What the facts see of each host becomes a file on the operator's machine, to go with the report of a bug.

    pyinfra -y inventories/prod.py deploys/collect.py [--data collect_directory=DIRECTORY]

Changes nothing on a host. HOST.collected.json lands in the directory, or in that of the environment's
GEVULOT_COLLECT_DIRECTORY, or else in the working directory. Its first lines say what could not be read as this login;
nothing in it tells whose host it is.
"""

import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from pyinfra import host as this_host
from pyinfra import logger
from pyinfra.api import Host, State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.operations import python

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys import manifest
from deploys.inputs.spelling import find_unknown
from deploys.transport import heartbeat
from deploys.transport.connection import prepare
from facts.collection import Collection

# A host on which a program hangs must not keep the others from being collected.
SECONDS = 180
# Also those that may take a board before VFIO does.
MODULES = (*manifest.MODULES, "vfio_pci_core", "iommufd", "kvm_intel", "kvm_amd", "nouveau", "nova_core", "nvidia")

KEY, VARIABLE = "collect_directory", "GEVULOT_COLLECT_DIRECTORY"


class CollectError(PyinfraError):
    """Why no host is asked."""


def destination() -> str:
    """Where the files go. Raises CollectError for a typo in its setting."""
    data = this_host.data.dict()
    wrong = [*find_unknown(data, [KEY], "collect_"), *find_unknown(os.environ, [VARIABLE], "GEVULOT_COLLECT_")]
    if wrong:
        raise CollectError(f"{'; '.join(wrong)}; expected {KEY}, or {VARIABLE} in the environment. Nothing was read.")
    return data.get(KEY) or os.environ.get(VARIABLE) or "."


def collect(state: State, host: Host, directory: str) -> bool:
    """Read the host and write its file; report why and return False when either fails."""
    hidden = tuple(str(name) for name in (host.name, *map(host.data.get, ("ssh_hostname", "ssh_user"))) if name)
    # A name may have slashes, as those of connectors do.
    path = Path(directory).absolute() / f"{quote(host.name, safe='@')}.collected.json"
    try:
        asked = {"modules": MODULES, "units": manifest.STATUS_UNITS, "hidden": hidden}
        collected = host.get_fact(Collection, **asked, _ignore_errors=True, _timeout=SECONDS)
        if collected is None:
            return failed(host, f"it gave no answer within {SECONDS} s, or one that cannot be read: see above")
        text = collected.text()
        write(path, text)
    except OSError as error:
        why = error.strerror or error
        return failed(host, f"{path} cannot be written: {why}. Choose another place: --data collect_directory=DIR")
    except Exception as error:
        # What nobody thought of, on one host, must not end the run for the others.
        return failed(host, f"{type(error).__name__}: {error}")
    unread = f", {len(collected.unreadable)} things could not be read: its first lines" if collected.unreadable else ""
    host.log(f"collected: {path} ({len(text) / 1000:.0f} kB{unread}). Look it through before you give it away.")
    return True


def failed(host: Host, reason: str) -> bool:
    """Say why a host was not collected."""
    host.log_styled(f"not collected: {reason}", fg="red", log_func=logger.error)
    return False


def write(path: Path, text: str) -> None:
    """Make the file, whole or not. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, path)
    finally:
        Path(new).unlink(missing_ok=True)


prepare(this_host)
heartbeat.get_heartbeat(this_host.state)
python.call(
    name="Collect what the host is like, into a file here",
    function=collect,
    directory=destination(),
)
