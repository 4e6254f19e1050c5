"""The types of the values of host data, each with its check and an error that says what was expected."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Network, IPv6Network, ip_interface
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, SecretStr

from deploys.inputs import database_url, passphrases
from deploys.inputs.addresses import Endpoint, is_contact, is_server
from deploys.inputs.secret_sources import call
from pcibind.model.request import OVERRIDABLE_GUARDS, Selector

# Environment files, units and command lines take longer ones; nobody means them.
_LONGEST = 4096

# IPv4 addresses as they reach a program that listens on [::] (RFC 4291, 2.5.5.2).
_MAPPED = IPv6Network("::ffff:0:0/96")

# Images with Postgres and more have its release behind "pg"; others begin their tag with it, as the official one does.
_BEHIND_PG = re.compile(r"(?:^|[.-])pg-?(\d{1,2})(?![\d])")
_FIRST = re.compile(r"v?(\d{1,2})(?=$|[.-]|alpha|beta|rc)")
_DIRECTORY = re.compile(r"(/[A-Za-z0-9._-]+)+")
# As Docker's distribution defines references. The registry is written out: Podman asks or guesses where it is not.
_REGISTRY = r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9-]+(?=:))(?::[1-9][0-9]{0,4})?"
_IMAGE = re.compile(
    rf"{_REGISTRY}(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?"
)

_SYSTEM_DIRECTORIES = frozenset(
    """
    afs bin boot dev efi etc home lib lib32 lib64 libx32 lost+found nix ostree proc root run sbin selinux snap sys
    sysroot tmp usr
    """.split()  # noqa: SIM905
)
# Directories of /var/lib that packages have for themselves: those of Debian, Ubuntu, Fedora, and of common servers.
# pcibind, gpu-host and gevulot-deploy are this project's own.
_OF_PACKAGES = frozenset(
    """
    AccountsService alertmanager alsa alternatives apparmor apport apt aptitude authselect bluetooth boltd buildkit
    chrony clamav cloud cni colord command-not-found containerd containers cups dbus dhcp dhcpcd dkms dnf dnsmasq docker
    dpkg drkonqi elasticsearch etcd extrausers fail2ban flatpak fprint fwupd gdm3 gems geoclue gevulot-deploy
    ghostscript git gnome-initial-setup gpu-host grafana grub gssproxy haproxy influxdb initramfs-tools initscripts
    insights ipmievd iscsi jenkins k0s kernel-install kubelet landscape libvirt lightdm lldpd logrotate loki lxc lxcfs
    lxd machines man-db mariadb mdadm mdcheck misc mlocate mongodb mysql netplan NetworkManager nfs nginx ntp ntpsec
    nvidia openvswitch os-prober PackageKit pam pcibind pcp pgsql php plocate plymouth polkit-1 portables postfix
    postgres postgresql private prometheus python qemu rabbitmq rancher redis rhsm rpcbind rpm rpm-state rsyslog samba
    sddm selinux sgml-base shells.state shim-signed smartmontools snapd snmp sss sssd sudo swcatalog swtpm systemd
    tailscale tftpboot tor tpm tpm2-tss ubuntu-advantage ubuntu-release-upgrader ucf udisks2 unattended-upgrades unbound
    update-manager update-notifier upower usb_modeswitch usbutils vagrant vault vim vmware waagent wireguard xfsdump xkb
    xml-core zabbix zerotier-one zfs zincati
    """.split()  # noqa: SIM905
)


def is_one_line(text: str) -> bool:
    """Whether it is text without control characters, line breaks of any kind, or halves of characters."""
    return not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") or each == "\ufeff" for each in text)


def _board(text: Any) -> Selector:
    if not isinstance(text, str):
        raise ValueError("expected text")
    if len(text) > _LONGEST:
        raise ValueError("names no board: expected an address, a path or a model")
    return Selector.parse(text.lower())


def _guard(name: str) -> str:
    if name not in OVERRIDABLE_GUARDS:
        raise ValueError(f"expected {', '.join(map(repr, OVERRIDABLE_GUARDS[:-1]))} or {OVERRIDABLE_GUARDS[-1]!r}")
    return name


def _list(values: Any) -> Any:
    """A list as it stands in an inventory. A set has no order, and a generator can be read for one host only."""
    if not isinstance(values, list | tuple):
        raise ValueError("expected a list")
    return tuple(values)


def _boards(values: Any) -> Any:
    if isinstance(values, str) and values == "supported":
        return values
    if not isinstance(values, list | tuple):
        raise ValueError("expected 'supported', or a list of addresses, paths or models")
    return tuple(values)


def _once(values: Any) -> Any:
    again = next((each for place, each in enumerate(values) if each in values[:place]), None)
    if isinstance(values, tuple) and again is not None:
        text = again.value if isinstance(again, Selector) else again
        raise ValueError(f"expected each once, but {text!r} stands there twice")
    return values


def _listen(text: Any) -> Endpoint:
    if not isinstance(text, str):
        raise ValueError("expected text")
    return Endpoint.parse(text)


def _contact(address: str) -> str:
    if not is_contact(address):
        raise ValueError("expected ADDRESS:PORT, for example '203.0.113.7:9999' or 'peer.example.org:9999'")
    return address


def _reachable(listen: Endpoint) -> Endpoint:
    address = listen.address
    if address.is_loopback or address.is_unspecified or address.is_link_local:
        raise ValueError("expected the address at which peers reach the node, for example '203.0.113.7:9999'")
    return listen


def _loopback(listen: Endpoint) -> Endpoint:
    if not listen.address.is_loopback:
        raise ValueError("expected a loopback address, such as '127.0.0.1:8888'")
    return listen


def _network(text: Any) -> Any:
    """A network as ``ipaddress`` has it, or the word for everybody."""
    if isinstance(text, str) and text == "any":
        return text
    try:
        # Text only: the library also takes numbers, and addresses with the name of an interface.
        interface = ip_interface(text if isinstance(text, str) and "%" not in text else "")
    except ValueError:
        raise ValueError("expected a network such as '203.0.113.0/24' or '2001:db8::/32'") from None
    network = interface.network
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError("expected the IPv4 network itself, since packets carry its addresses: '192.0.2.0/24'")
    if network.prefixlen == 0:
        raise ValueError("expected networks; to let everybody in, write ('any',)")
    if interface.ip != network.network_address:
        raise ValueError(f"expected a network without host bits, probably '{network}'")
    return network


def _path(path: str) -> str:
    if len(path) > _LONGEST or not _DIRECTORY.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("expected an absolute path of plain characters, such as '/usr/bin/qemu-system-x86_64'")
    return path


def own_directory(path: str) -> str:
    """A directory whose owner and mode are ours to set: never one that other programs or people know."""
    if len(path) > _LONGEST or not _DIRECTORY.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("expected an absolute path of plain characters, such as '/var/lib/gevulot'")
    top, *below = path.strip("/").split("/")
    theirs = (
        not below
        or top in _SYSTEM_DIRECTORIES
        # /var/log, /var/cache and so on have rules of their own for what lies in them.
        or (top == "var" and (len(below) < 2 or below[0] not in ("lib", "opt", "local") or below[1] in _OF_PACKAGES))
    )
    if theirs:
        raise ValueError(
            "expected a directory of its own, which is no part of the system and of no other program, such as "
            "'/var/lib/gevulot' or '/data/gevulot'"
        )
    return path


def _seccomp_profile(path: str) -> str:
    if path == "":
        return path
    try:
        return _path(path)
    except ValueError:
        raise ValueError(
            "expected the absolute path of a JSON file on the node, such as '/etc/gevulot/seccomp.json', or '' for "
            "Podman's own profile"
        ) from None


def release_of_image(image: str) -> int | None:
    """The major release of Postgres that the image's tag names; ``None`` where it names none."""
    path, _, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    if match := _BEHIND_PG.search(tag):
        return int(match[1])
    match = _FIRST.match(tag) if "postgres" in path or path.startswith("pg") else None
    return int(match[1]) if match else None


def tag_of(image: str) -> str | None:
    """The tag of an image's full reference, if it has one."""
    match = _IMAGE.fullmatch(image)
    return match["tag"] if match else None


def is_pinned(image: str) -> bool:
    """Whether a full reference always names the same image, by its digest."""
    return "@" in image


def _image(reference: str) -> str:
    match = _IMAGE.fullmatch(reference)
    if match is None or len(reference) > _LONGEST or not (match["tag"] or match["digest"]):
        raise ValueError("expected a full image reference with registry and tag, such as 'quay.io/gevulot/node:latest'")
    return reference


def _one_line(text: str) -> str:
    if not is_one_line(text) or text != text.strip() or not text:
        raise ValueError("expected one line of text, not empty, without blanks at its ends")
    if len(text) > _LONGEST:
        raise ValueError(f"expected at most {_LONGEST} characters")
    return text


def _link(text: str) -> str:
    expected = "expected an http or https URL, such as 'https://example.org/acl.txt'"
    try:
        url = urlsplit(_one_line(text))
        # Reading the port checks it.
        complete = url.scheme in ("http", "https") and is_server(_host_of(url.netloc)) and url.port != 0
    except ValueError:
        raise ValueError(expected) from None
    if not complete or not text.isascii() or " " in text:
        raise ValueError(expected)
    return text


def _host_of(netloc: str) -> str:
    return re.sub(r":[0-9]*\Z", "", netloc.rpartition("@")[2])


def _secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text.strip().strip(".… ") == "":
        raise ValueError("expected a secret that is neither empty nor a placeholder")
    if not is_one_line(text):
        # Podman keeps a trailing newline, and the passphrase is hashed as it stands: one byte more means no peers.
        raise ValueError("expected a secret of one line, without a newline at its end and without control characters")
    if len(text) > _LONGEST:
        raise ValueError(f"expected a secret of at most {_LONGEST} characters")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    problem = database_url.find_problem(value.get_secret_value())
    if problem:
        raise ValueError(f"expected {database_url.FORM}, with the password percent-encoded; {problem}")
    return value


def _passphrase(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    problem = passphrases.find_problem(text)
    if problem is None and text != text.strip():
        problem = "expected a passphrase without blanks at its ends, which would be a part of it"
    if problem:
        raise ValueError(problem)
    return value


# The curve secp256k1: y² = x³ + 7 over this prime (SEC 2, section 2.4.1).
_PRIME = 2**256 - 2**32 - 977
_PUBLIC_KEY = re.compile(r"04([0-9a-f]{64})([0-9a-f]{64})")


def _public_key(text: str) -> str:
    key = text.lower()
    digits = _PUBLIC_KEY.fullmatch(key)
    if digits is None:
        raise ValueError("expected a public key of 130 hexadecimal digits, the first two 04")
    x, y = (int(each, 16) for each in digits.groups())
    if max(x, y) >= _PRIME or (y * y - x * x * x - 7) % _PRIME:
        raise ValueError("expected a public key of secp256k1; this one is not on the curve, so a digit is mistyped")
    return key


Board = Annotated[InstanceOf[Selector], BeforeValidator(_board)]
Boards = Annotated[Literal["supported"] | tuple[Board, ...], BeforeValidator(_boards), AfterValidator(_once)]
Listen = Annotated[InstanceOf[Endpoint], BeforeValidator(_listen)]
Contact = Annotated[str, AfterValidator(_contact)]
Path = Annotated[str, AfterValidator(_path)]
OwnDirectory = Annotated[str, AfterValidator(own_directory)]
SeccompProfile = Annotated[str, AfterValidator(_seccomp_profile)]
Reachable = Annotated[Listen, AfterValidator(_reachable)]
LoopbackListen = Annotated[Listen, AfterValidator(_loopback)]
Image = Annotated[str, AfterValidator(_image)]
Line = Annotated[str, AfterValidator(_one_line)]
Link = Annotated[str, AfterValidator(_link)]
Secret = Annotated[SecretStr, BeforeValidator(call), AfterValidator(_secret)]
Passphrase = Annotated[Secret, AfterValidator(_passphrase)]
DatabaseUrl = Annotated[Secret, AfterValidator(_database_url)]
PublicKey = Annotated[str, AfterValidator(_public_key)]
Network = Annotated[IPv4Network | IPv6Network | Literal["any"], BeforeValidator(_network)]
Port = Annotated[int, Field(gt=0, lt=65536)]
Count = Annotated[int, Field(gt=0, lt=1_000_000)]
Guard = Annotated[str, AfterValidator(_guard)]
Guards = Annotated[tuple[Guard, ...], BeforeValidator(_list), AfterValidator(_once)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_list)]
Contacts = Annotated[tuple[Contact, ...], BeforeValidator(_list), AfterValidator(_once)]
PublicKeys = Annotated[tuple[PublicKey, ...], BeforeValidator(_list), AfterValidator(_once)]
