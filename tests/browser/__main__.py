"""Make the browser that the fleet's page is looked at with: `python -m tests.browser`."""

from __future__ import annotations

import sys

from tests.lab import hostpackages
from tests.lab.hostpackages import HostPackage, HostPackageError

NEEDED = (
    HostPackage("chromium", "chromium", "shows the fleet's page"),
    HostPackage("chromium-driver", "chromedriver", "is how tests steer it"),
    HostPackage("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "is what it writes with"),
)

if __name__ == "__main__":
    try:
        hostpackages.ensure(lambda text: print(text, file=sys.stderr), NEEDED)
    except HostPackageError as error:
        # Their tests are left out then, and say so.
        print(f"without a browser: {error}", file=sys.stderr)
