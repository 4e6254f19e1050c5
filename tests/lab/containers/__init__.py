"""The lab's container images: stand-ins for Postgres and for the node, and their registry."""
