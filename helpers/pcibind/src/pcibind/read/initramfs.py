"""What the initramfs images that may boot hold of the files that act before the root is there.

Whoever looks at a host from afar runs this text there, with the host's own Python alone:

    python3 -I -c "$(cat initramfs.py)" PATH... [@RELEASE...]

It prints `Contents` of these files as JSON; RELEASE is a further kernel whose images are read. So
nothing of pcibind may be imported here. The format of images is the kernel's:
Documentation/driver-api/early-userspace/buffer-format.rst.
The generators' own listers are not used: they print no content, and that of Ubuntu 24.04 takes ten
seconds an image.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import stat
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, Any, BinaryIO, NamedTuple

LIST = "/etc/pcibind/early.list"
EARLY = (
    ("/etc/udev/rules.d/05-pcibind.rules", "/usr/lib/udev/rules.d/05-pcibind.rules"),
    ("/usr/local/lib/pcibind/early", "/usr/lib/pcibind/early"),
    (LIST,),
)
"""What takes a board before any driver can: one file of each line, and of use only together.

The first of a line that is there acts. initramfs-tools copies a rule of /etc to /usr/lib as well.
"""
_PLACES = {path: paths for paths in EARLY for path in paths}

# The first kept digests.
CACHE_FORMAT = 2
# Of how many kernels older than the newest the images are read: each takes a second or two.
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


class Contents(NamedTuple):
    """Path -> text of the files that are there, on the host and in each image.

    `damaged` are images that nothing can boot from, `unlisted` those that could not be read: image
    -> reason. `without` is the release of the running kernel when it has no image.
    """

    host: Mapping[str, str] = {}
    images: Mapping[str, Mapping[str, str]] = {}
    damaged: Mapping[str, str] = {}
    unlisted: Mapping[str, str] = {}
    without: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain objects."""
        return self._asdict()

    @property
    def differences(self) -> tuple[str, ...]:
        """How an image differs from the host, a sentence each; an empty list needs no rule."""
        needed = EARLY if self.host.get(LIST) else ()
        acting = [_acting(self.host, paths) for paths in needed]
        sentences = [
            f"the host lacks {paths[0]}"
            for paths, own in zip(needed, acting, strict=True)
            if own is None
        ]
        if needed and self.without:
            sentences.append(
                f"no initramfs of the running kernel {self.without} was found in /boot"
            )
        sentences += [f"{image} is damaged: {reason}" for image, reason in self.damaged.items()]
        for image, held in self.images.items():
            sentences += [
                f"{image} lacks {own}"
                for paths, own in zip(needed, acting, strict=True)
                if own is not None and _acting(held, paths) is None
            ]
            sentences += _differences(image, held, self.host)
        return tuple(sentences)

    def outdated(self, stale: Iterable[str]) -> tuple[str, ...]:
        """What the next boot would miss, a sentence each.

        `stale` are sentences about images that are older than their inputs. Times count only for
        an image that was not read: a file that was touched, or that another package put there,
        changes nothing in what an image holds of ours.
        """
        old = (each for each in stale if each.partition(" ")[0] not in self.images)
        return (*self.differences, *old)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Which images could not be read and why, a sentence each."""
        return tuple(
            f"{image} could not be read: {reason}" for image, reason in self.unlisted.items()
        )


def _differences(image: str, held: Mapping[str, str], host: Mapping[str, str]) -> Iterator[str]:
    for path, text in held.items():
        paths = _PLACES.get(path, (path,))
        if path != _acting(held, paths):
            continue
        own = _acting(host, paths)
        if own is None:
            yield f"{image} still holds {path}, which the host does not have"
        elif text != host[own]:
            yield f"{image} holds another {path} than the host has"


def _acting(files: Mapping[str, str], paths: tuple[str, ...]) -> str | None:
    return next((path for path in paths if path in files), None)


class Damaged(Exception):
    """An image that is not as the kernel expects it."""


class Unlisted(Exception):
    """An image that cannot be read here."""


def archives(file: BinaryIO, wanted: Collection[str], held: dict[str, str]) -> None:
    """Read all archives of an image: plain ones in a row, and at the end a compressed one."""
    # Not needed where it is known what the images hold.
    import shutil
    import subprocess

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
        with subprocess.Popen(
            words, stdin=file.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
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
            held[path] = decode(read(file, padded)[:size])
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


def decode(data: bytes) -> str:
    """Text that differs where the bytes do."""
    return data.decode(errors="surrogateescape")


def order(version: str) -> list[tuple[int, str]]:
    """A key that sorts the releases of kernels from old to new."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)
    ]


def images(boot: str, modules: str, others: Collection[str] = ()) -> tuple[list[str], bool]:
    """The images that may boot, and whether the running kernel has one.

    They are those of the running kernel, of the newest one, of a few older ones, and of `others`.
    """
    running = os.uname().release
    releases_by_path = {}
    for pattern in ("initrd.img-*", "initramfs-*.img", "*/*/initrd"):
        for path in glob.glob(os.path.join(boot, pattern)):
            name = re.sub(
                r".*/(?:initrd[.]img-|initramfs-|(?=[^/]*/initrd$))|(?:[.]img|/initrd)$", "", path
            )
            if os.path.isdir(os.path.join(modules, name)):
                releases_by_path[path] = name
    releases = sorted(set(releases_by_path.values()), key=order)
    # No generator would rebuild an older one whose kernel is gone.
    older = [each for each in releases[:-1] if is_installed(each, boot, modules)]
    may_boot = {running, *releases[-1:], *older[-OLDER:], *others}
    there = running in releases_by_path.values()
    return [path for path, name in sorted(releases_by_path.items()) if name in may_boot], there


def is_installed(release: str, boot: str, modules: str) -> bool:
    """Whether there is a kernel to boot with an image."""
    kernels = (f"{boot}/vmlinuz-{release}", f"{modules}/{release}/vmlinuz")
    return any(map(os.path.exists, kernels))


def look(
    wanted: Collection[str], others: Collection[str] = (), root: str = "", cache: str = ""
) -> Contents:
    """Read these files of the host and of its images, which are found under `root`.

    `cache` is a file that keeps what was read: an image of the same inode, size and time holds the
    same. It is written where its directory is there and may be written to.
    """
    host = {}
    for path in wanted:
        with contextlib.suppress(OSError), open(root + path, "rb") as file:
            host[path] = decode(file.read())
    paths, there = images(f"{root}/boot", f"{root}/lib/modules", others)
    known = _known(cache)
    images_held: dict[str, dict[str, str]] = {}
    damaged, unlisted, kept = {}, {}, {}
    for path in paths:
        held: dict[str, str] = {}
        try:
            with open(path, "rb") as file:
                seen = os.fstat(file.fileno())
                file_id = [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns]
                identity = [CACHE_FORMAT, *file_id, *wanted]
                if known.get(path, {}).get("identity") == identity:
                    held = known[path]["held"]
                else:
                    archives(file, wanted, held)
        except Damaged as error:
            damaged[path] = str(error)
        except ValueError:
            damaged[path] = "a header in it has no numbers"
        except Unlisted as error:
            unlisted[path] = str(error)
        except OSError as error:
            unlisted[path] = error.strerror or str(error)
        else:
            images_held[path] = held
            kept[path] = {"identity": identity, "held": held}
    if cache and kept != known:
        with contextlib.suppress(OSError):
            with open(f"{cache}.new", "w", encoding="utf-8") as new:
                json.dump(kept, new)
            os.replace(f"{cache}.new", cache)
    return Contents(host, images_held, damaged, unlisted, None if there else os.uname().release)


def _known(cache: str) -> dict[str, Any]:
    try:
        with open(cache, encoding="utf-8") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {path: entry for path, entry in entries if isinstance(entry, dict)}


def main(arguments: Collection[str]) -> None:
    """Print the contents as JSON, as the module's text describes."""
    wanted = [each for each in arguments if not each.startswith("@")]
    others = [each[1:] for each in arguments if each.startswith("@")]
    print(json.dumps(look(wanted, others).to_json()))


if __name__ == "__main__":
    main(sys.argv[1:])
