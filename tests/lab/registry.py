"""The registry: which container images the guests can pull, and that they are there."""

from pathlib import Path

from tests.lab import cache
from tests.lab.progress import Progress, silent, step


def ensure(progress: Progress = silent) -> Path:
    """Return the directory of stand-in images, built when the cache has none."""
    from tests.lab.containers import build

    with step(progress, "container images", takes="some minutes the first time"):
        return build.ensure(cache.directory())
