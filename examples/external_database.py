"""A node whose database is on another server. The URL holds a password, so it comes from elsewhere.

read -rs GPU1_DB_URL && export GPU1_DB_URL
"""

import sys
from pathlib import Path

# So that pyinfra may be started in any directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploys.inputs.secret_sources import from_environment as _from_environment
from inventories.template import check_inventory

nodes = [
    ("gpu1.example.com", {"ssh_user": "root", "gevulot_postgres_url": _from_environment("GPU1_DB_URL")}),
]

check_inventory(globals())
