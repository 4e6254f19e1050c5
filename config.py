"""pyinfra runs this before every inventory, when it is started in this directory."""

from deploys.inputs.inventory import check_run

check_run()
