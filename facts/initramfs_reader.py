"""What the initramfs images of this host hold of some files. Runs on the host, with its own Python alone.

    python3 -I -c "$(cat initramfs_reader.py)" PATH… [@RELEASE…]

For each image that may boot (the running kernel's, the newest ones', those of RELEASE) it prints `image FILE`, and
under it `holds SHA256 PATH` for each of the files; before them `host SHA256 PATH` for the host's own. `damaged FILE
REASON` and `unlisted FILE REASON` stand for images that nothing can boot from, and that this cannot read; `none KERNEL`
for a running kernel without image. The format is the kernel's:
Documentation/driver-api/early-userspace/buffer-format.rst.
The generators' own listers are not used: they print no content, and that of Ubuntu 24.04 takes ten seconds an image.
"""

import glob
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection
from typing import IO, BinaryIO

# Of how many older kernels the images are read, beside the newest one's: each takes a second or two.
OLDER = 3
HEADER = 110
MAGICS = (b"070701", b"070702")
# The first bytes of a compressed archive → what unpacks it from standard input.
PACKERS = (
    (b"\x1f\x8b", "gzip -dc"),
    (b"BZh", "bzip2 -dc"),
    (b"\xfd7zXZ", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd -dcq"),
    (b"\x02\x21\x4c\x18", "lz4 -dcq"),
    (b"\x5d\x00\x00", "xz -dc --format=lzma"),
    (b"\x89LZO", "lzop -dcq"),
)


class Damaged(Exception):
    """An image that is not as the kernel expects it."""


class Unlisted(Exception):
    """An image that cannot be read here."""


def archives(file: BinaryIO, wanted: Collection[str], held: dict[str, str]) -> None:
    """Read all archives of an image: plain ones one after the other, and at the end a compressed one."""
    while True:
        start = file.read(6)
        while start[:1] == b"\0":
            # Zeros stand between archives, up to any boundary.
            start = start.lstrip(b"\0")
            start += file.read(6 - len(start))
        if not start:
            return
        if start in MAGICS:
            archive(file, start, wanted, held)
            continue
        packer = next((words for magic, words in PACKERS if start.startswith(magic)), None)
        if packer is None:
            raise Damaged(f"what follows at byte {file.tell() - len(start)} is no archive")
        words = packer.split()
        if shutil.which(words[0]) is None:
            raise Unlisted(f"there is no program {words[0]}")
        file.seek(-len(start), os.SEEK_CUR)
        # The position of a file that is given on is that of its descriptor.
        os.lseek(file.fileno(), file.tell(), os.SEEK_SET)
        with subprocess.Popen(words, stdin=file.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            inner = process.stdout
            assert inner is not None
            archive(inner, inner.read(6), wanted, held)
            while inner.read(1 << 20):
                pass
        if process.returncode != 0:
            raise Damaged(f"{words[0]} ended with {process.returncode}")
        return


def archive(file: IO[bytes], start: bytes, wanted: Collection[str], held: dict[str, str]) -> None:
    """Read one archive to its end, the first bytes of which were read already."""
    while True:
        header = start + file.read(HEADER - len(start))
        if len(header) < HEADER or header[:6] not in MAGICS:
            raise Damaged("it ends before its archive does")
        fields = [int(header[place : place + 8], 16) for place in range(6, HEADER, 8)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = read(file, -(-(HEADER + length) // 4) * 4 - HEADER)[:length].rstrip(b"\0")
        path = "/" + name.decode(errors="replace").lstrip("./")
        if name == b"TRAILER!!!":
            return
        padded = -(-size // 4) * 4
        if path in wanted and stat.S_ISREG(mode):
            held[path] = hashlib.sha256(read(file, padded)[:size]).hexdigest()
        else:
            while padded:
                padded -= len(read(file, min(padded, 1 << 20)))
        start = b""


def read(file: IO[bytes], size: int) -> bytes:
    """So many bytes, or Damaged."""
    data = file.read(size)
    if len(data) < size:
        raise Damaged("it ends before its archive does")
    return data


def order(version: str) -> list[tuple[int, str]]:
    """A key that sorts the releases of kernels from old to new."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]


def images(boot: str, modules: str, others: Collection[str] = ()) -> list[str]:
    """The images that may boot: those of the running kernel, of the newest one, and of a few older ones.

    ``others`` are further releases of kernels.
    """
    running = platform.release()
    found = {}
    for pattern in ("initrd.img-*", "initramfs-*.img", "*/*/initrd"):
        for path in glob.glob(os.path.join(boot, pattern)):
            name = re.sub(r".*/(?:initrd[.]img-|initramfs-|(?=[^/]*/initrd$))|(?:[.]img|/initrd)$", "", path)
            if os.path.isdir(os.path.join(modules, name)):
                found[path] = name
    releases = sorted(set(found.values()), key=order)
    # No generator would rebuild an older one whose kernel is gone.
    older = [each for each in releases[:-1] if is_installed(each, boot, modules)]
    may_boot = {running, *releases[-1:], *older[-OLDER:]}
    if running not in found.values():
        print("none", running)
    return [path for path, name in sorted(found.items()) if name in {*may_boot, *others}]


def is_installed(release: str, boot: str, modules: str) -> bool:
    """Whether there is a kernel to boot with an image."""
    return any(map(os.path.exists, (f"{boot}/vmlinuz-{release}", f"{modules}/{release}/vmlinuz")))


def main(arguments: Collection[str], boot: str = "/boot", modules: str = "/lib/modules") -> None:
    """Print what is said above."""
    wanted = [each for each in arguments if not each.startswith("@")]
    others = [each[1:] for each in arguments if each.startswith("@")]
    for path in wanted:
        try:
            with open(path, "rb") as file:
                print("host", hashlib.sha256(file.read()).hexdigest(), path)
        except OSError:
            pass
    for path in images(boot, modules, others):
        held: dict[str, str] = {}
        try:
            with open(path, "rb") as file:
                archives(file, wanted, held)
        except Damaged as error:
            print("damaged", path, error)
        except ValueError:
            print("damaged", path, "a header in it has no numbers")
        except Unlisted as error:
            print("unlisted", path, error)
        except OSError as error:
            print("unlisted", path, error.strerror)
        else:
            print("image", path)
            for name, digest in held.items():
                print("holds", digest, name)


if __name__ == "__main__":
    main(sys.argv[1:])
