"""How the whole fleet stands, the worst first. Changes nothing.

    pyinfra -y inventories/prod.py deploys/status.py [--data status_output=json|html] [--data status_file=PATH]
        [--data status_known=DIRECTORY [--data status_keep=yes]]

`-y` only keeps pyinfra from asking what to do about hosts that it cannot reach. For an exit code by severity, and an
answer even when no host can be reached: `python -m deploys.fleet inventories/prod.py`.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pyinfra import host

from deploys.fleet.gathering import report

report(host)
