"""Settings of all hosts. docs/settings.md lists all keys; a host's own data takes precedence."""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploys.inventory import check_run as _check_run

_check_run()

# The passphrase comes from the environment variable GEVULOT_PSK_PASSPHRASE. To read it from a file instead, write into
# nodes.py beside this file, which git ignores, for the hosts of the list `nodes`:
# from deploys.inputs.secret_sources import from_file as _from_file
# gevulot_psk_passphrase = _from_file("~/gevulot.passphrase")
