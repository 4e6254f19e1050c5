"""Container images that a node has."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class ImageIds(FactBase[dict[str, str]]):
    """Which of the named images are in the node's storage, each with its id."""

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def requires_command(self, images: tuple[str, ...]) -> str:
        return "podman"

    def command(self, images: tuple[str, ...]) -> str:
        script = r"""for image in "$@"; do
  id=$(podman image inspect --format '{{.Id}}' "$image" 2>/dev/null) && echo "$image $id"; done; true"""
        return f"sh -c {quote(script)} images {' '.join(quote(image) for image in images)}"

    def process(self, output: list[str]) -> dict[str, str]:
        return {image: identity for image, _, identity in (line.partition(" ") for line in output)}
