"""Podman's secret store: what is damaged is refused before a deploy fails with it, and nothing of it is printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploys.assessment.verdict import Findings
from deploys.preflight.secrets import NAMES, judge_secrets
from facts.secret_store import SecretStore, SecretStoreState

# As Podman 5.4.2: a secret whose data is gone is an error; data that is no JSON is an empty answer, without an error.
PODMAN = r"""#!/bin/sh
[ ! -e "$STORE/busy-$2" ] || exit 124
case "$1 $2" in
"secret ls") [ ! -e "$STORE/broken" ] || { echo "Error: invalid character 'b'" >&2; exit 125; }
  for file in "$STORE"/secret.*; do [ -e "$file" ] && echo "${file##*secret.} file"; done; exit 0 ;;
"secret inspect")
  case "$*" in "secret inspect --showsecret --format {{.Spec.Name}} "*) ;; *) cat "$STORE"/secret.* ;; esac
  [ ! -e "$STORE/no-json" ] || exit 0
  shift 5; code=0
  for name; do
    if [ -s "$STORE/secret.$name" ]; then echo "$name"
    else echo "Error: inspecting secret: 0a1b: no such secret" >&2; code=125; fi; done
  exit $code ;;
"info --format") echo /srv/storage ;;
esac
"""


def read(
    root: Path, *, secrets: tuple[str, ...] = (), gone: tuple[str, ...] = (), marks: tuple[str, ...] = ()
) -> SecretStoreState:
    (root / "podman").write_text(PODMAN)
    (root / "podman").chmod(0o755)
    for name in (*secrets, *gone):
        (root / f"secret.{name}").write_text("" if name in gone else "hunter2")
    for mark in marks:
        (root / mark).write_text("")
    environment = os.environ | {"PATH": f"{root}:{os.environ['PATH']}", "STORE": str(root)}
    command = SecretStore().command(NAMES)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    return SecretStore().process(done.stdout.splitlines())


def refusals(store: SecretStoreState) -> list[str]:
    findings = Findings()
    judge_secrets(store, findings)
    return findings.refusals


@pytest.mark.parametrize("secrets", [(), NAMES, ("other",), (*NAMES, "other")])
def test_a_store_that_can_be_read_is_accepted(tmp_path: Path, secrets: tuple[str, ...]) -> None:
    assert refusals(read(tmp_path, secrets=secrets)) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_secret_of_the_nodes_whose_data_is_gone_is_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    (text,) = refusals(read(tmp_path, secrets=("other",), gone=(name,)))
    assert f"Podman's secret store /srv/storage/secrets lists {name}, which cannot be read (Error: inspecting" in text
    assert "mv /srv/storage/secrets /srv/storage/secrets.damaged" in text
    assert "and you make other again." in text


def test_a_secret_of_others_whose_data_is_gone_keeps_nobody_from_a_deploy(tmp_path: Path) -> None:
    assert refusals(read(tmp_path, secrets=NAMES, gone=("other",))) == []


@pytest.mark.parametrize("secrets", [("gevulot-db-url",), ("other",)])
def test_data_that_is_no_json_is_refused_also_where_others_have_secrets(
    tmp_path: Path, secrets: tuple[str, ...]
) -> None:
    (text,) = refusals(read(tmp_path, secrets=secrets, marks=("no-json",)))
    assert "which cannot be read" in text


def test_a_list_that_cannot_be_read_is_refused_with_podmans_words(tmp_path: Path) -> None:
    (text,) = refusals(read(tmp_path, marks=("broken",)))
    assert "/srv/storage/secrets cannot be listed (Error: invalid character 'b')" in text


def test_a_host_without_podman_has_no_damaged_store() -> None:
    assert refusals(SecretStore.default()) == []


@pytest.mark.parametrize("busy", ["busy-ls", "busy-inspect"])
def test_a_podman_that_does_not_answer_in_time_is_waited_for_and_its_store_is_not_called_damaged(
    tmp_path: Path, busy: str
) -> None:
    (text,) = refusals(read(tmp_path, secrets=NAMES, marks=(busy,)))
    assert "does not answer in time" in text
    assert "run again" in text
    assert "mv " not in text
