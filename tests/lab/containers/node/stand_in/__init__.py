"""A stand-in for the Gevulot node: its contract with a host, without its network or its provers.

It takes the real node's arguments and environment, uses the database, the devices and the ports
that the real one uses, and ends with the same exit codes. Standard library and psycopg2 only.
"""

NOTICE = "stand-in for quay.io/gevulot/node: for tests only, not the real node"
