"""What an operator runs: each script here is given to pyinfra together with an inventory."""
