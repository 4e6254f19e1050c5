"""The registry: which container images the guests can pull, and that they are there."""

from pathlib import Path

from tests.lab import cache
from tests.lab.progress import Progress, silent


def ensure(progress: Progress = silent) -> Path:
    """Return the directory of stand-in images, built when the cache has none."""
    from tests.lab.containers import build

    return build.ensure(cache.directory(), progress)
