"""The input of the operator: values of host data with their checks, secrets, and pyinfra's own keys."""
