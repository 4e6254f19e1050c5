"""The initramfs: rebuilt when it does not hold what goes into it."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import operation
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta

from deploys.manifest import INITRAMFS_FILES, INITRAMFS_INPUTS
from deploys.operations.planning import step, will_follow
from deploys.steps.preflight import GpuHost
from facts.batch import Part, ask
from facts.initramfs import InitramfsContents, StaleInitramfs


def dracut_command(boot: str = "/boot", modules: str = "/lib/modules") -> str:
    """How dracut rebuilds every image in ``boot``.

    By itself dracut chooses a path that need not be the one which Debian's menus name, on an EFI partition for example:
    there each image is named, as in dracut's own hook for new kernels. Copies of images have no modules.
    """
    return (
        f"PATH=$PATH:/usr/sbin:/sbin; set -- {boot}/initrd.img-*; "
        f'if [ -e "$1" ]; then for image do version=${{image#{boot}/initrd.img-}}; '
        f'[ ! -d "{modules}/$version" ] || dracut --force "$image" "$version" || exit 1; done; '
        "else dracut --regenerate-all --force; fi"
    )


_REBUILD = {
    "initramfs-tools": "PATH=$PATH:/usr/sbin:/sbin update-initramfs -u -k all",
    "dracut": dracut_command(),
}


@operation()
def current(generator: str, inputs: list[OperationMeta]) -> Generator[PyinfraCommand | str, None, None]:
    """Rebuild every initramfs when one carries another configuration than the host has.

    + generator: ``initramfs-tools`` or ``dracut``
    + inputs: operations of this run that write what goes into it
    """
    if not will_follow(inputs) and _is_current():
        host.noop("the initramfs holds what /etc says")
        return
    yield _REBUILD[generator]


def _is_current() -> bool:
    answers = ask(
        host,
        Part("stale", StaleInitramfs, {"inputs": INITRAMFS_INPUTS}),
        Part("contents", InitramfsContents, {"files": INITRAMFS_FILES}),
    )
    return not answers["contents"].outdated(answers["stale"])


@step("Rebuild the initramfs")
def rebuild_initramfs(gpu_host: GpuHost, after: list[OperationMeta]) -> None:
    generator = gpu_host.family.initramfs
    current(name=f"Rebuild the initramfs with {generator}", generator=generator, inputs=after)
