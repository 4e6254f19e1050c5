"""Package managers whose lock is held, and registries that do not answer: the programs, with what these say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys import scripts

# Fails with each of the lines of `says` in turn, then succeeds. The first word of `$*` is asked for once a try.
_TOOL = r"""#!/bin/sh
echo "$*" >>"$STORE/argv"
line=$(sed -n "$(wc -l <"$STORE/argv")p" "$STORE/says")
[ -z "$line" ] && { echo done; exit 0; }
printf '%b\n' "$line" >&2
exit 100
"""
_SLEEP = '#!/bin/sh\necho "$1" >>"$STORE/pauses"\n'
_CUT = r"""#!/bin/sh
case "$*" in *uptime*) awk '{ sum += $1 } END { print sum + 0 }' "$STORE/pauses" ;; *) exec /usr/bin/cut "$@" ;; esac
"""


def run(root: Path, command: str, *says: str) -> tuple[int, str]:
    for name, text in (("apt-get", _TOOL), ("podman", _TOOL), ("sleep", _SLEEP), ("cut", _CUT)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    (root / "says").write_text("".join(f"{line}\n" for line in says))
    (root / "pauses").touch()
    environment = {"PATH": f"{root}:{os.environ['PATH']}", "STORE": str(root), "LC_ALL": "de_DE.UTF-8"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment)
    return done.returncode, done.stderr


def tries(root: Path) -> int:
    return len((root / "argv").read_text().splitlines())


INSTALL = scripts.shell("package_manager.sh", "900", "apt-get install -y 'a package'")
PULL = scripts.shell("pull_image.sh", "quay.io/gevulot/node:latest", "gevulot_node_image")
LOCKED = (
    "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 612 (unattended-upgr)",
    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 612 (apt-get)\\nE: Unable to lock directory",
    "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
    "dpkg: error: dpkg frontend lock was locked by another process with pid 612",
    "Failed to obtain the transaction lock (logged in as: root).",
    "Failed to obtain rpm transaction lock. Another transaction is in progress.",
    "can't create transaction lock on /usr/lib/sysimage/rpm/.rpm.lock (Resource temporarily unavailable)",
)


@pytest.mark.parametrize("says", LOCKED)
def test_a_lock_that_another_program_holds_is_waited_for(tmp_path: Path, says: str) -> None:
    code, output = run(tmp_path, INSTALL, says, says)
    assert (code, tries(tmp_path)) == (0, 3)
    assert output.count("waiting for another program that installs packages") == 1
    assert (tmp_path / "argv").read_text().splitlines()[0] == "install -y a package"


def test_a_lock_that_is_never_released_is_named_with_its_holder(tmp_path: Path) -> None:
    code, output = run(tmp_path, scripts.shell("package_manager.sh", "20", "apt-get update"), *[LOCKED[0]] * 9)
    assert (code, tries(tmp_path)) == (100, 5)
    assert f"another program has held the lock of the packages for 20 s: {LOCKED[0]}; wait" in output


def test_an_interrupted_installation_is_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    says = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem. "
    code, output = run(tmp_path, INSTALL, says)
    assert (code, tries(tmp_path)) == (100, 1)
    assert len(output.splitlines()) == 1
    assert "run `dpkg --configure -a` on this host" in output


@pytest.mark.parametrize(
    "says", ["E: Unable to locate package x", "No match for argument: x", "E: lock, stock, barrel"]
)
def test_what_no_waiting_helps_ends_with_the_tools_own_words(tmp_path: Path, says: str) -> None:
    assert run(tmp_path, INSTALL, says) == (100, f"{says}\n")
    assert tries(tmp_path) == 1


@pytest.mark.parametrize(
    "says",
    [
        'Error: initializing source docker://x: pinging container registry quay.io: Get "https://quay.io/v2/": dial '
        "tcp: lookup quay.io: Temporary failure in name resolution",
        "Error: reading blob sha256:0a: fetching blob: received unexpected HTTP status: 503 Service Unavailable",
        "Error: copying system image from manifest list: unexpected EOF",
        "Error: toomanyrequests: You have reached your unauthenticated pull rate limit. access denied for a while",
        "Error: net/http: TLS handshake timeout",
    ],
)
def test_a_pull_is_tried_again_after_pauses_that_grow(tmp_path: Path, says: str) -> None:
    code, output = run(tmp_path, PULL, says, says)
    assert (code, tries(tmp_path)) == (0, 3)
    assert (tmp_path / "pauses").read_text().split() == ["10", "30"]
    assert f"{says}; tried again in 10 s" in output


def test_a_registry_that_never_answers_is_given_up_on(tmp_path: Path) -> None:
    code, output = run(tmp_path, PULL, *["Error: dial tcp: i/o timeout"] * 9)
    assert (code, tries(tmp_path)) == (100, 5)
    assert output.splitlines()[-1] == (
        "quay.io/gevulot/node:latest cannot be pulled, tried 5 times: Error: dial tcp: i/o timeout"
    )


@pytest.mark.parametrize(
    ("says", "answer"),
    [
        ("Error: reading manifest lates in quay.io/gevulot/node: manifest unknown", "correct gevulot_node_image"),
        ("Error: name unknown: Repository not found", "correct gevulot_node_image"),
        ("Error: parsing reference: invalid reference format", "correct gevulot_node_image"),
        ("Error: choosing an image from manifest list: no image found in image index for architecture", "there is no"),
        ("Error: unauthorized: access to the requested resource is not authorized", "`podman login quay.io`"),
        ("Error: requested access to the resource is denied", "`podman login quay.io`"),
        ("Error: received unexpected HTTP status: 403 Forbidden", "`podman login quay.io`"),
        ("Error: writing blob: no space left on device", "cannot be pulled: Error: writing blob: no space left"),
        ("Error: tls: failed to verify certificate: x509: certificate signed by unknown authority", "cannot be pulled"),
    ],
)
def test_an_answer_that_would_be_the_same_again_ends_the_pull(tmp_path: Path, says: str, answer: str) -> None:
    code, output = run(tmp_path, PULL, says)
    assert (code, tries(tmp_path)) == (100, 1)
    assert says in output
    assert answer in output
