"""The deploy of a node as an Ansible playbook, as far as a settled node is concerned.

It is meant as somebody would write it who wants it to be quick, for the same end state: connections are kept, modules
are pipelined, there is a fork for every host, no interpreter is looked for, only the smallest set of facts is gathered,
all files are one `copy` of a tree, which is quicker than a loop, and what Ansible has no module for is asked by one
shell command for each subject, by the very commands that our deploy asks with, where those are its own.

On a settled node both change nothing. The playbook does less than `deploys/node.py` in these ways:

- Where a package, an image, a secret, the key, a kernel argument, the initramfs, pcibind or a binding is not as it
  should be, it fails and says which check, instead of mending it. So it has no task that would be skipped here, and
  none is run for nothing. It never reboots.
- The files are those of the settled node: it renders no template, and does not decide by the host's PCI topology which
  boards there are, what refuses them, or what GRUB's and pcibind's files must say.
- It does not look at the ports from outside, nor at which boards the container has; it asks the database on the node
  and not through the connection, prints no table, and notes nowhere that everything was right.
- Packages are asked for by dpkg-query: the apt module needs python3-apt, which the lab's node has not.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from shlex import quote

from deploys import library, manifest, scripts
from deploys.assessment.kernel_arguments import KERNEL_ARGUMENTS
from deploys.manifest import MODULE_FILES
from deploys.preflight import key
from deploys.settings import Settings
from deploys.steps import packages
from facts.database import MIGRATIONS, TABLES, PostgresOpenToLoopback, PostgresSchema
from facts.initramfs import StaleInitramfs
from facts.kernel import KernelModules
from facts.tree import TreeDigest
from facts.unit import ChangedSince, SystemState
from pcibind.change import boot_files
from pcibind.read.initramfs import LIST

TREE_DIGEST = TreeDigest().command(directory=library.DIRECTORY)

FILES = (
    *MODULE_FILES,
    "/etc/default/grub.d/zz-gpu-host.cfg",
    "/usr/local/sbin/pcibind",
    "/etc/pcibind/gpu-host.toml",
    boot_files.RULE_PATH,
    boot_files.INITRAMFS_HOOK_PATH,
    "/etc/systemd/system/pcibind.service",
    manifest.HBA.path,
    manifest.POSTGRES_QUADLET.path,
    manifest.NODE_ENVIRONMENT.path,
    manifest.MIGRATION_PROGRAM.path,
    manifest.MIGRATION_SERVICE.path,
    manifest.KEY_PROGRAM.path,
    manifest.ALLOW_VSOCK.path,
    manifest.KEY_SERVICE.path,
    manifest.NODE_QUADLET.path,
)
"""Those that the deploy owns on a Debian node with its own Postgres."""

_UNITS = ("pcibind.service", manifest.POSTGRES_UNIT, manifest.NODE_UNIT)

_PLAY = """\
- hosts: all
  gather_facts: true
  gather_subset: ["!all"]
  tasks:
    - name: Groups
      ansible.builtin.group:
        name: "{{{{ item }}}}"
        system: true
      loop: [kvm, gevulot]
    - name: Account
      ansible.builtin.user:
        name: gevulot
        groups: [kvm]
        append: true
        create_home: false
    - name: Directories
      ansible.builtin.file:
        path: "{{{{ item.path }}}}"
        state: directory
        owner: "{{{{ item.owner | default(omit) }}}}"
        group: "{{{{ item.group | default(omit) }}}}"
        mode: "{{{{ item.mode | default(omit) }}}}"
      loop: {directories}
    - name: Files
      ansible.builtin.copy:
        src: {files}/
        dest: /
        owner: root
        group: root
        mode: preserve
{questions}\
    - name: Passphrase
      ansible.builtin.command:
        argv: {passphrase}
        stdin: "{{{{ lookup('ansible.builtin.env', 'GEVULOT_PSK_PASSPHRASE') }}}}"
      no_log: true
      register: passphrase
      changed_when: false
      failed_when: passphrase.stdout != 'same'
    - name: Units
      ansible.builtin.systemd_service:
        name: "{{{{ item.name }}}}"
        state: started
        enabled: "{{{{ item.enabled | default(omit) }}}}"
      loop: {units}
    - name: Health
      ansible.builtin.uri:
        url: http://{health}/healthz
        status_code: [200, 204]
"""
_QUESTION = """\
    - name: {name}
      ansible.builtin.shell:
        cmd: !unsafe {command}
      changed_when: false
"""


def playbook(settings: Settings, files: Path, digest: str) -> str:
    """The playbook for nodes of the lab with these settings.

    `files` is the directory of the files that the deploy owns, laid out as they land; `digest` is what
    `TREE_DIGEST` prints on a settled node.
    """
    directories: list[dict[str, str]] = [
        {"path": settings.storage_directory, "owner": "root", "group": "gevulot", "mode": "0750"},
        {"path": settings.data_directory, "owner": "root", "group": "gevulot", "mode": "2770"},
        {"path": settings.postgres_directory},
    ]
    questions = {
        "Host": _host(),
        "Boards": _boards(digest),
        "Podman": _podman(settings),
        "Database": _database(settings),
    }
    words = shlex.split(scripts.python("secret.py", "check", manifest.PASSPHRASE_SECRET, "stdin"))
    return _PLAY.format(
        directories=json.dumps(directories),
        files=files,
        # A JSON string is one of YAML.
        questions="".join(
            _QUESTION.format(name=name, command=json.dumps("\n".join(("set -eu", *lines))))
            for name, lines in questions.items()
        ),
        passphrase=f"[{', '.join(f'!unsafe {json.dumps(word)}' for word in words)}]",
        # Quadlet's units are generated, so nobody can enable them.
        units=json.dumps([{"name": name} | ({"enabled": True} if name == _UNITS[0] else {}) for name in _UNITS]),
        health=settings.healthcheck_listen,
    )


def _host() -> list[str]:
    names = packages.PACKAGES["apt"]
    # The lab's IOMMU is Intel's.
    arguments = KERNEL_ARGUMENTS["DMAR"]
    entries = (
        "grep -E '^[[:space:]]+linux(efi)?[[:space:]]' /boot/grub/grub.cfg | grep ' root=' | "
        f"grep -v -w -E 'single|recovery' | grep -v -F -e {quote(' '.join(arguments))}"
    )
    installed = f"dpkg-query -W -f '${{db:Status-Status}}\\n' {' '.join(names)} | grep -c -x installed"
    return [
        _says("packages", str(len(names)), installed),
        *(f"grep -q -w -e {quote(argument)} /proc/cmdline" for argument in arguments),
        "[ -s /boot/grub/grub.cfg ]",
        _says("GRUB's entries", "", entries),
        "grep -q ' IR-' /proc/interrupts",
        _says("modules", "", f"{KernelModules().command(manifest.MODULES)} | grep ' module -$'"),
        _says("initramfs", "", StaleInitramfs().command(manifest.INITRAMFS_INPUTS)),
        _says("what it holds", "1", f"lsinitramfs /boot/initrd.img-$(uname -r) | grep -c -x {LIST.lstrip('/')}"),
        "[ -c /dev/kvm ] && [ -c /dev/vsock ] && [ -c /dev/vhost-vsock ]",
        _says("system", "running", SystemState().command()),
    ]


def _boards(digest: str) -> list[str]:
    return [
        _says("pcibind", digest, TREE_DIGEST),
        "/usr/local/sbin/pcibind status --json",
        _says("VFIO groups", "", "find /dev/vfio -type c -name '[0-9]*' ! -group kvm"),
    ]


def _podman(settings: Settings) -> list[str]:
    files = (
        *(
            manifest.NODE_QUADLET.path,
            manifest.MIGRATION_SERVICE.path,
            manifest.MIGRATION_PROGRAM.path,
            manifest.NODE_ENVIRONMENT.path,
            manifest.HAND_OVER,
        ),
        f"{settings.key_directory}/node.key",
    )
    changed = {
        "Postgres": ChangedSince().command(
            manifest.POSTGRES_UNIT,
            (manifest.POSTGRES_QUADLET.path, manifest.HBA.path, manifest.IDENT.path),
            (manifest.PASSWORD_SECRET,),
        ),
        "the node": ChangedSince().command(manifest.NODE_UNIT, files, (manifest.PASSPHRASE_SECRET,)),
    }
    container = "podman container inspect --format '{{.State.Running}}' gevulot-node"
    reload = f"systemctl show -p NeedDaemonReload --value {' '.join(_UNITS)} {manifest.MIGRATION_UNIT} | grep yes"
    return [
        *(f"podman image exists {quote(image)}" for image in (settings.postgres_image, settings.node_image)),
        _says("password", "same", scripts.python("secret.py", "check", manifest.PASSWORD_SECRET, "generated")),
        _says("URL", "same", scripts.python("secret.py", "check", manifest.URL_SECRET, "none")),
        _says("key", "ok", scripts.shell("node_key.sh", "state", *key.arguments(settings))),
        _says("container", "true", container),
        *(_says(f"newer than {name}", "", command) for name, command in changed.items()),
        _says("units to reload", "", reload),
        _says("migration", "success", f"systemctl show -p Result --value {manifest.MIGRATION_UNIT}"),
    ]


def _database(settings: Settings) -> list[str]:
    names = "|".join(sorted((*TABLES, MIGRATIONS)))
    schema = PostgresSchema().command(manifest.POSTGRES_LOGIN, port=settings.postgres_port)
    return [
        _says("tables", str(len(TABLES) + 1), f"{{ {schema}; }} | grep -c -x -E 'table ({names})'"),
        _says(
            "loopback", "closed", PostgresOpenToLoopback().command(manifest.POSTGRES_LOGIN, port=settings.postgres_port)
        ),
    ]


def _says(what: str, expected: str, command: str) -> str:
    """Lines of shell that fail, with what was found, unless a command prints just what is expected."""
    message = quote(f"{what}: expected {expected or 'nothing'}, found")
    return f'found=$({command}) || :\n[ "$found" = {quote(expected)} ] || {{ echo {message} "$found" >&2; exit 1; }}'
