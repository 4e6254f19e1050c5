"""pyinfra runs this before every inventory, when it is started in this directory."""

from deploys.inventory import check_run

check_run()
