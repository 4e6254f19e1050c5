"""The steps, one module each: their functions are for the runbooks, ``deploys/gpu_host.py`` and ``deploys/node.py``."""
