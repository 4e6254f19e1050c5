"""Container images that a node has."""

from __future__ import annotations

from shlex import quote

from pyinfra.api import FactBase


class ImageIds(FactBase[dict[str, str]]):
    """Which of the named images are in the node's storage, each with its id; of all that have a name by default."""

    @staticmethod
    def default() -> dict[str, str]:
        return {}

    def requires_command(self, images: tuple[str, ...] = ()) -> str:
        return "podman"

    def command(self, images: tuple[str, ...] = ()) -> str:
        script = r"""[ $# -gt 0 ] || set -- $(podman image ls --format '{{.Repository}}:{{.Tag}}' | grep -v '<none>')
for image in "$@"; do
  id=$(podman image inspect --format '{{.Id}}' "$image" 2>/dev/null) && echo "$image $id"; done; true"""
        return f"sh -c {quote(script)} images {' '.join(quote(image) for image in images)}"

    def process(self, output: list[str]) -> dict[str, str]:
        return {image: identity for image, _, identity in (line.partition(" ") for line in output)}


class SecretNames(FactBase[list[str]]):
    """The names of the secrets that Podman keeps, without their content."""

    @staticmethod
    def default() -> list[str]:
        return []

    def requires_command(self) -> str:
        return "podman"

    def command(self) -> str:
        return "podman secret ls --format '{{.Name}}'"

    def process(self, output: list[str]) -> list[str]:
        return sorted(line.strip() for line in output if line.strip())
