"""What the platform's command finds of a distribution and of its boot, on hosts made of files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from facts import os_release
from facts.platform import HostPlatform, Platform

_VENDOR = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host's root with no file but its kernel's line, and an empty folder of programs in front of the real ones."""
    (tmp_path / "bin").mkdir()
    write(tmp_path, "proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz-6.12.0 root=UUID=0a1b ro quiet\n")
    return tmp_path


def write(root: Path, path: str, text: str = "") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def program(root: Path, name: str, script: str = "") -> None:
    write(root, f"bin/{name}", f"#!/bin/sh\n{script}\n").chmod(0o755)


def read(root: Path) -> HostPlatform:
    environment = os.environ | {"PLATFORM_ROOT": str(root), "PATH": f"{root}/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", Platform().command(directory="/", offered=False)], env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    return Platform().process(done.stdout.splitlines())


# --- os-release


def test_os_release_is_data_and_no_line_of_it_is_run(root: Path) -> None:
    touched = root / "touched"
    write(
        root, "etc/os-release", f"touch {touched}\nID=debian; touch {touched}\nNAME=$(touch {touched})\nVERSION_ID=`x`"
    )
    host = read(root)
    assert not touched.exists()
    assert (host.distribution, host.version) == (f"debian; touch {touched}", "`x`")


def test_os_release_is_read_where_the_distribution_put_it(root: Path) -> None:
    write(root, "usr/lib/os-release", "ID=rocky\n")
    assert read(root).distribution == "rocky"
    write(root, "etc/os-release", 'ID=linuxmint\r\nID_LIKE="ubuntu debian"\r\nPRETTY_NAME="Linux Mint 22.3"\r\n')
    host = read(root)
    assert (host.distribution, host.like, host.name) == ("linuxmint", ("ubuntu", "debian"), "Linux Mint 22.3")


def test_a_host_without_os_release_has_no_name(root: Path) -> None:
    host = read(root)
    assert (host.distribution, host.like, host.version, host.name) == ("", (), "", "")


def test_os_release_cannot_speak_for_the_rest_of_the_answer(root: Path) -> None:
    write(root, "etc/os-release", "ID=x\nend=yes\ntool=grubby\nboot=grub\nsystemd=no\n")
    host = read(root)
    assert "grub" not in host.boot
    assert host.distribution == "x"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=plain", "plain"),
        ("K=", ""),
        ('K=""', ""),
        ("K='it is'", "it is"),
        ('K="it is"', "it is"),
        (r'K="a \"b\" \$c \`d\` \\e"', r'a "b" $c `d` \e'),
        (r"K='a \" b'", r"a \" b"),
        (r'K="a \n b"', r"a \n b"),
        ("  K=indented  ", "indented"),
        ('K="ends in CR"\r', "ends in CR"),
        ("K=with blanks", "with blanks"),
        ("# K=comment", None),
        ('K="no end', None),
        ("K='no end", None),
        ('K="one" two', None),
        ("export K=shell", None),
        ("K", None),
        ("", None),
    ],
)
def test_values_lose_their_quotes_as_os_release_has_them(line: str, value: str | None) -> None:
    assert os_release.parse([line]).get("K") == value


def test_the_last_assignment_of_a_name_wins() -> None:
    assert os_release.parse(["ID=one", "ID=two"]) == {"ID": "two"}


# --- the boot


@pytest.mark.parametrize(
    ("files", "signs"),
    [
        ({}, set()),
        ({"boot/grub/grub.cfg": ""}, {"grub"}),
        ({"boot/grub2/grub.cfg": ""}, {"grub2"}),
        # On the EFI partition there is a stub since Fedora 34 and in Debian, and a whole menu in older Fedoras.
        (
            {
                "boot/grub2/grub.cfg": "",
                "boot/efi/EFI/fedora/grub.cfg": "search --fs-uuid 1\nconfigfile ($dev)/grub2/grub.cfg\n",
            },
            {"grub2"},
        ),
        ({"boot/efi/EFI/fedora/grub.cfg": "insmod blscfg\nblscfg\n"}, {"grub-efi"}),
        ({"boot/efi/EFI/fedora/grub.cfg": "menuentry 'Fedora' {\n}\n"}, {"grub-efi"}),
        ({"run/ostree-booted": ""}, {"ostree"}),
        ({"proc/cmdline": "root=UUID=1 ostree=/ostree/boot.1/fedora/0\n"}, {"ostree"}),
        ({"proc/cmdline": "composefs=0a1b root=UUID=1\n"}, {"composefs"}),
        ({"proc/cmdline": "root=UUID=1 notostree=1\n"}, set()),
        ({"etc/kernel/proxmox-boot-uuids": "EA72-BD09\n"}, {"proxmox-boot-tool"}),
        ({"etc/kernel/pve-efiboot-uuids": "EA72-BD09\n"}, {"proxmox-boot-tool"}),
        ({"boot/efi/EFI/Linux/fedora.efi": ""}, {"uki"}),
        ({f"sys/firmware/efi/efivars/StubInfo-{_VENDOR}": "systemd-stub"}, {"uki"}),
        ({"boot/efi/loader/loader.conf": ""}, {"systemd-boot"}),
        ({f"sys/firmware/efi/efivars/LoaderInfo-{_VENDOR}": "s\0y\0s\0temd-b\0oot 257"}, {"systemd-boot-now"}),
        ({f"sys/firmware/efi/efivars/LoaderInfo-{_VENDOR}": "G\0RUB 2.12"}, set()),
    ],
)
def test_how_a_host_boots_is_read_from_its_files(root: Path, files: dict[str, str], signs: set[str]) -> None:
    for path, text in files.items():
        write(root, path, text)
    assert read(root).boot == signs


# --- the initramfs


@pytest.mark.parametrize(
    ("answer", "owners"),
    [
        ("initramfs-tools: /usr/sbin/update-initramfs", {"initramfs-tools"}),
        ("dracut: /usr/sbin/update-initramfs", {"dracut"}),
        ("live-tools, initramfs-tools: /usr/sbin/update-initramfs", {"live-tools", "initramfs-tools"}),
        (
            "diversion by live-tools from: /usr/sbin/update-initramfs\n"
            "diversion by live-tools to: /usr/sbin/update-initramfs.orig.initramfs-tools\n"
            "initramfs-tools: /usr/sbin/update-initramfs",
            {"diversion by live-tools", "initramfs-tools"},
        ),
        (
            "local diversion from: /usr/sbin/update-initramfs\n"
            "local diversion to: /usr/sbin/update-initramfs.distrib\n"
            "dracut: /usr/sbin/update-initramfs",
            {"local diversion", "dracut"},
        ),
        ("", set()),
    ],
)
def test_the_package_of_update_initramfs_is_asked_for(root: Path, answer: str, owners: set[str]) -> None:
    program(root, "update-initramfs")
    program(root, "dpkg", f"[ \"$*\" = '-S *bin/update-initramfs' ] || exit 1\ncat <<'END'\n{answer}\nEND")
    assert read(root).initramfs_owners == owners


def test_a_package_manager_that_fails_says_of_no_package(root: Path) -> None:
    program(root, "update-initramfs")
    program(root, "dpkg", "echo 'dpkg-query: no path found matching pattern' >&2; exit 1")
    assert read(root).initramfs_owners == set()


def test_a_kernel_hook_counts_while_it_is_executable(root: Path) -> None:
    hook = write(root, "etc/kernel/postinst.d/dracut", "#!/bin/sh\n")
    assert read(root).kernel_hooks == set()
    hook.chmod(0o755)
    assert read(root).kernel_hooks == {"dracut"}
