"""Container images, pulled before anything waits for them."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.api.command import PyinfraCommand

from deploys import scripts
from deploys.operations.planning import step
from deploys.settings import PREFIX, Settings
from facts.podman import ImageIds


@operation()
def pulled(image: str, key: str) -> Generator[PyinfraCommand, None, None]:
    """Pull an image, unless the node has one of that reference.

    + image: full image reference
    + key: the setting that names it
    """
    if image in host.get_fact(ImageIds, images=(image,)):
        host.noop(f"{image} is there")
        return
    yield StringCommand(scripts.shell("pull_image.sh", image, f"{PREFIX}{key}"))


@step("Pull images")
def pull_images(settings: Settings) -> None:
    if settings.own_postgres:
        pulled(name="Pull the image of Postgres", image=settings.postgres_image, key="postgres_image")
    pulled(name="Pull the image of the node", image=settings.node_image, key="node_image")
