"""The programs that run on a node, run for real against a Podman that only keeps files."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploys import scripts

pytestmark = pytest.mark.commands

BAKED = b"b" * 32
PUBLIC = "04" + "5a" * 64
IMAGE = "quay.io/gevulot/node:latest"

# Secrets are files of $PODMAN_STORE. $PODMAN_KEY says what the image does when it is asked for a key.
_PODMAN = r"""#!/bin/sh
printf '%s\n' "$*" >>"$PODMAN_STORE/argv"
case "$1 $2" in
"secret inspect")
  for name; do :; done
  [ -e "$PODMAN_STORE/secret.$name" ] || { echo "no such secret" >&2; exit 125; }
  case "$*" in *Labels*) cat "$PODMAN_STORE/label.$name" 2>/dev/null; echo; exit ;; esac
  cat "$PODMAN_STORE/secret.$name"; echo ;;
"secret create")
  shift 2; replace=no; [ "$1" = --replace ] && { replace=yes; shift; }
  label=; case $1 in --label=gevulot-deploy=*) label=${1##*=}; shift ;; esac
  [ "$#:$2" = 2:- ] || exit 125
  # As Podman 4: an absent secret cannot be replaced, and a present one cannot be made.
  if [ -e "$PODMAN_STORE/secret.$1" ]; then have=yes; else have=no; fi
  [ $have = $replace ] || { echo "have $have, replace $replace" >&2; exit 125; }
  printf %s "$label" >"$PODMAN_STORE/label.$1"
  cat >"$PODMAN_STORE/secret.$1"; echo an-id ;;
"secret rm") rm "$PODMAN_STORE/secret.$3" "$PODMAN_STORE/label.$3"; echo an-id ;;
"create "*) echo a-container ;;
"cp "*) tar -C "$PODMAN_STORE/image" -cf - node.key ;;
"rm "*) ;;
"run "*)
  directory=${4#--volume=}; [ "$4" = --volume ] && directory=$5
  directory=${directory%%:*}
  case "$*" in
  *"show public-key"*) echo "${PODMAN_PUBLIC-}"; exit ;;
  esac
  case $PODMAN_KEY in
  new) head -c 32 /dev/urandom >"$directory/node.key" ;;
  baked) cat "$PODMAN_STORE/image/node.key" >"$directory/node.key" ;;
  short) head -c 31 /dev/urandom >"$directory/node.key" ;;
  killed) printf half >"$directory/node.key"; kill -9 $PPID ;;
  none) echo "cannot make a key" >&2; exit 1 ;;
  esac
  echo "${PODMAN_SAYS-}" ;;
*) exit 125 ;;
esac
"""


@dataclass
class Node:
    """A directory that stands for a node: its key, its fingerprint, and its Podman."""

    root: Path

    @property
    def key(self) -> Path:
        return self.root / "srv/key/node.key"

    @property
    def fingerprint(self) -> Path:
        return self.root / "etc/gevulot/node-key.sha256"

    @property
    def legacy(self) -> Path:
        return self.root / "srv/node.key"

    def run(self, command: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        path = f"{self.root}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", command], input=stdin, capture_output=True,
            env={"PATH": path, "PODMAN_STORE": str(self.root / "store"), "PODMAN_KEY": "new"} | environment,
        )  # fmt: skip

    def key_script(self, verb: str, *more: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        words = (verb, str(self.key.parent), str(self.fingerprint), str(self.legacy), *more)
        return self.run(scripts.shell("node_key.sh", *words), b"", **environment)

    def state(self) -> str:
        done = self.key_script("state")
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode().strip()

    def make(self, **environment: str) -> subprocess.CompletedProcess[bytes]:
        if os.geteuid() != 0:
            pytest.skip("a key is given to root, which only root can do")
        return self.key_script("make", IMAGE, **environment)

    def secret(self, *words: str, stdin: bytes = b"") -> str:
        done = self.run(scripts.python("secret.py", *words), stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode().strip()

    def stored(self, name: str) -> bytes | None:
        path = self.root / f"store/secret.{name}"
        return path.read_bytes() if path.exists() else None

    def argv(self) -> str:
        path = self.root / "store/argv"
        return path.read_text() if path.exists() else ""


def prepare(root: Path) -> Node:
    for directory in ("bin", "store/image", "srv"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "bin/podman").write_text(_PODMAN)
    (root / "bin/podman").chmod(0o755)
    (root / "store/image/node.key").write_bytes(BAKED)
    return Node(root)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return prepare(tmp_path)


# --- the node's key


def test_a_new_node_has_no_key(node: Node) -> None:
    assert node.state() == "missing"


def test_a_made_key_is_the_nodes_own_and_recorded(node: Node) -> None:
    done = node.make()
    assert (done.returncode, done.stderr) == (0, b"")
    assert node.state() == "ok"
    assert node.key.stat().st_mode & 0o7777 == 0o600
    assert node.key.parent.stat().st_mode & 0o7777 == 0o700
    assert node.fingerprint.read_text().strip() == hashlib.sha256(node.key.read_bytes()).hexdigest()
    assert sorted(path.name for path in node.key.parent.iterdir()) == ["node.key"]


def test_making_a_key_prints_nothing_of_it(node: Node) -> None:
    done = node.make(PODMAN_SAYS=PUBLIC)
    assert done.stdout == b""
    assert node.key.read_bytes().hex() not in node.argv()


def test_a_key_is_never_made_twice(node: Node) -> None:
    node.make()
    key = node.key.read_bytes()
    assert node.make().returncode == 1
    assert node.key.read_bytes() == key


@pytest.mark.parametrize(
    ("says", "shows"), [(f"Public key: {PUBLIC}", ""), ("", PUBLIC)], ids=["when made", "when asked"]
)
def test_the_public_key_is_kept_for_everybody_to_read(node: Node, says: str, shows: str) -> None:
    assert node.make(PODMAN_SAYS=says, PODMAN_PUBLIC=shows).returncode == 0
    kept = node.fingerprint.parent / "node-key.public"
    assert kept.read_text() == f"{PUBLIC}\n"
    assert kept.stat().st_mode & 0o777 == 0o644


def test_an_image_that_shows_no_public_key_is_no_failure(node: Node) -> None:
    assert node.make().returncode == 0
    assert not (node.fingerprint.parent / "node-key.public").exists()


def test_the_public_key_of_a_key_that_was_brought_back_is_asked_for(node: Node) -> None:
    node.make(PODMAN_SAYS=f"04{'1' * 128}")
    done = node.key_script("public", IMAGE, PODMAN_PUBLIC=PUBLIC)
    assert (done.returncode, done.stderr) == (0, b"")
    kept = node.fingerprint.parent / "node-key.public"
    assert kept.read_text() == f"{PUBLIC}\n"
    assert kept.stat().st_mode & 0o777 == 0o644


def test_an_image_that_does_not_show_the_public_key_when_asked_is_named(node: Node) -> None:
    node.make()
    done = node.key_script("public", IMAGE)
    assert done.returncode != 0
    assert IMAGE.encode() in done.stderr
    assert not (node.fingerprint.parent / "node-key.public").exists()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [("baked", b"built-in key"), ("short", b"not 32 bytes long"), ("none", b"cannot make a key")],
)
def test_a_key_that_is_not_the_nodes_own_is_refused(node: Node, behaviour: str, words: bytes) -> None:
    done = node.make(PODMAN_KEY=behaviour)
    assert done.returncode != 0
    assert words in done.stderr
    assert node.state() == "missing"
    assert node.make().returncode == 0


def test_a_run_that_was_killed_while_the_key_was_made_is_made_good(node: Node) -> None:
    assert node.make(PODMAN_KEY="killed").returncode != 0
    assert (node.key.parent / "new/node.key").exists()
    assert node.state() == "missing"
    assert node.make().returncode == 0
    assert len(node.key.read_bytes()) == 32


def test_a_run_that_was_killed_before_the_record_keeps_the_key(node: Node) -> None:
    node.make()
    key = node.key.read_bytes()
    node.fingerprint.rename(f"{node.fingerprint}.new")
    assert node.state() == "unrecorded"
    assert node.key_script("record").returncode == 0
    assert node.state() == "ok"
    assert node.key.read_bytes() == key


def test_a_key_of_another_size_is_named(node: Node) -> None:
    node.make()
    node.key.write_bytes(b"0" * 64)
    assert node.state() == "size"


def test_a_recorded_key_that_is_gone_is_lost_and_not_made_anew(node: Node) -> None:
    node.make()
    node.key.unlink()
    assert node.state() == "lost"
    assert node.make().returncode == 1
    assert not node.key.exists()


def test_another_key_than_the_recorded_one_is_named(node: Node) -> None:
    node.make()
    node.key.write_bytes(b"x" * 32)
    assert node.state() == "changed"


def test_a_key_that_others_may_read_is_named_and_its_mode_fixed(node: Node) -> None:
    node.make()
    node.key.chmod(0o644)
    assert node.state() == "mode"
    assert node.key_script("record").returncode == 0
    assert node.state() == "ok"


def test_the_owner_of_a_key_is_fixed_too(node: Node) -> None:
    node.make()
    os.chown(node.key, 65534, 65534)
    assert node.state() == "mode"
    assert node.key_script("record").returncode == 0
    assert node.state() == "ok"


def test_a_key_where_the_guide_puts_it_is_not_passed_over(node: Node) -> None:
    node.legacy.write_bytes(b"k" * 32)
    assert node.state() == "legacy"
    assert node.make().returncode == 1
    assert not node.key.exists()


def test_a_key_where_the_guide_puts_it_is_taken_over_and_stays_there(node: Node) -> None:
    if os.geteuid() != 0:
        pytest.skip("a key is given to root, which only root can do")
    node.legacy.write_bytes(b"k" * 32)
    node.legacy.chmod(0o644)
    assert node.key_script("adopt", IMAGE).returncode == 0
    assert node.state() == "ok"
    assert (node.key.read_bytes(), node.legacy.read_bytes()) == (b"k" * 32, b"k" * 32)
    assert (node.key.stat().st_mode & 0o7777, node.legacy.stat().st_mode & 0o7777) == (0o600, 0o644)
    assert sorted(path.name for path in node.key.parent.iterdir()) == ["node.key"]
    assert node.key_script("adopt", IMAGE).returncode == 1, "never twice"


def test_a_recorded_key_that_is_gone_is_found_where_the_guide_puts_it(node: Node) -> None:
    node.make()
    node.key.rename(node.legacy)
    assert node.state() == "legacy"
    node.legacy.write_bytes(b"x" * 32)
    assert node.state() == "lost"


def test_the_public_key_of_the_image_is_not_taken_over(node: Node) -> None:
    node.legacy.write_bytes(BAKED)
    done = node.key_script("adopt", IMAGE)
    assert done.returncode != 0
    assert b"so it is public" in done.stderr
    assert not node.key.exists()


@pytest.mark.parametrize("kind", ["size", "directory", "link"])
def test_something_else_where_the_guide_puts_the_key_is_named(node: Node, kind: str) -> None:
    if kind == "size":
        node.legacy.write_bytes(b"k" * 64)
    elif kind == "directory":
        node.legacy.mkdir()
    else:
        node.legacy.symlink_to("nothing")
    assert node.state() == "legacy-size"
    assert node.make().returncode == 1


def test_a_key_that_is_a_link_is_judged_by_what_it_leads_to(node: Node) -> None:
    node.make()
    node.key.rename(node.root / "elsewhere")
    node.key.symlink_to(node.root / "elsewhere")
    assert node.state() == "ok"
    (node.root / "elsewhere").unlink()
    assert node.state() == "dangling"
    assert node.make().returncode == 1


# --- Podman secrets


def test_a_secret_that_is_not_there_is_made(node: Node) -> None:
    assert node.secret("check", "psk", "stdin", stdin=b"value\n") == "absent"
    assert node.stored("psk") is None
    assert node.secret("apply", "psk", "stdin", stdin=b"value\n") == "absent"
    assert node.stored("psk") == b"value"
    assert node.secret("check", "psk", "stdin", stdin=b"value\n") == "same"


def test_a_secret_that_changed_is_replaced(node: Node) -> None:
    node.secret("apply", "psk", "stdin", stdin=b"old\n")
    assert node.secret("check", "psk", "stdin", stdin=b"new\n") == "different"
    assert node.stored("psk") == b"old"
    assert node.secret("apply", "psk", "stdin", stdin=b"new\n") == "different"
    assert node.stored("psk") == b"new"


def test_only_a_secret_that_is_there_is_replaced(node: Node) -> None:
    node.secret("apply", "psk", "stdin", stdin=b"old\n")
    node.secret("apply", "psk", "stdin", stdin=b"new\n")
    created = [line for line in node.argv().splitlines() if line.startswith("secret create")]
    assert created == [
        "secret create --label=gevulot-deploy=made psk -",
        "secret create --replace --label=gevulot-deploy=made psk -",
    ]


def test_a_secret_that_is_the_same_is_not_written(node: Node) -> None:
    node.secret("apply", "psk", "stdin", stdin=b"value\n")
    assert node.secret("apply", "psk", "stdin", stdin=b"value\n") == "same"
    assert node.argv().count("secret create") == 1


@pytest.mark.parametrize("value", [b"value", b"value\n", b" \xff'\"$x\t "])
def test_exactly_one_newline_is_taken_off(node: Node, value: bytes) -> None:
    node.secret("apply", "psk", "stdin", stdin=value + b"\n")
    assert node.stored("psk") == value


def test_a_newline_more_is_a_difference(node: Node) -> None:
    node.secret("apply", "psk", "stdin", stdin=b"value\n")
    assert node.secret("check", "psk", "stdin", stdin=b"value\n\n") == "different"


def test_a_podman_that_fails_ends_with_its_words_and_one_sentence(node: Node) -> None:
    (node.root / "bin/podman").write_text("#!/bin/sh\necho Error: the store is full >&2\nexit 125\n")
    done = node.run(scripts.python("secret.py", "apply", "psk", "stdin"), b"value\n")
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert done.stderr.endswith(b"`podman secret create` of psk ended with 125; expected 0.\n")


def test_a_generated_secret_is_made_once_and_kept(node: Node) -> None:
    assert node.secret("check", "db", "generated") == "absent"
    assert node.secret("apply", "db", "generated") == "absent"
    made = node.stored("db")
    assert made is not None
    assert len(made) == 48
    assert node.secret("check", "db", "generated") == "same"
    assert node.secret("apply", "db", "generated") == "same"
    assert node.stored("db") == made


def test_a_secret_that_a_deploy_made_is_removed(node: Node) -> None:
    node.secret("apply", "url", "stdin", stdin=b"postgres://someone:hunter2@db.example.net/gevulot\n")
    assert node.secret("check", "url", "none") == "different"
    assert node.stored("url") is not None
    assert node.secret("apply", "url", "none") == "different"
    assert node.stored("url") is None
    assert node.secret("check", "url", "none") == node.secret("apply", "url", "none") == "same"


def by_hand(node: Node, value: bytes) -> None:
    """A secret that has no label, as one that somebody made, or a deploy before there were labels."""
    (node.root / "store/secret.url").write_bytes(value)
    (node.root / "store/label.url").write_text("")


def test_the_url_of_the_own_database_of_an_earlier_deploy_is_removed(node: Node) -> None:
    by_hand(node, b"postgres://gevulot:p%40ss%2Fw%3Ard%25@127.0.0.1:5433/gevulot")
    assert node.secret("apply", "url", "none") == "different"
    assert node.stored("url") is None


@pytest.mark.parametrize(
    "value",
    [b"postgres://gevulot:x@db.example.net:5432/gevulot", b"anything", b"postgres://other:x@127.0.0.1:1/gevulot"],
)
def test_a_secret_that_somebody_else_made_stays(node: Node, value: bytes) -> None:
    by_hand(node, value)
    assert node.secret("apply", "url", "none") == "same"
    assert node.stored("url") == value


def test_no_secret_is_an_argument_or_printed(node: Node) -> None:
    output = node.secret("apply", "db", "stdin", stdin=b"hunter2\n")
    output += node.secret("apply", "made", "generated")
    output += node.secret("check", "db", "none")
    made = node.stored("made")
    assert made is not None
    for secret in ("hunter2", made.decode()):
        assert secret not in output
        assert secret not in node.argv()


# --- how they are sent


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)))
def test_arguments_reach_the_script_as_they_are(arguments: list[str]) -> None:
    assert shlex.split(scripts.python("secret.py", *arguments))[4:] == arguments
    assert shlex.split(scripts.shell("node_key.sh", *arguments))[4:] == arguments
