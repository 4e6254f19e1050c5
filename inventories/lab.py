"""The virtual GPU hosts that run on this machine: `python -m tests.lab up` starts one.

Their images are stand-ins for Postgres and the node, and their boards are models that no prover supports, so the
boards are named here.
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lab.inventory import hosts

nodes = hosts()
