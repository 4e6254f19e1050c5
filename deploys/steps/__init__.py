"""The parts of the guide, one module each. Every module offers one function for the runbook, ``deploys/node.py``."""
