"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

from tests.lab.qemu import PROCESSORS

pytest_plugins = ["tests.plugins.breakdown", "tests.plugins.progress"]

# Two workers, each with a machine. Measured on two cores, emulated: two machines side by side boot in 70 s with two
# processors each, and in 53 s with one each. It does not depend on the number of workers: a stage is kept for one
# number of processors, and a single test must find the stage of a whole run.
os.environ.setdefault(PROCESSORS, str(max(1, min(2, (os.cpu_count() or 1) // 2))))

# Machines are noisy, and a slow example is no wrong one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
