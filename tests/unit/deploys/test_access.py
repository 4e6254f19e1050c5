"""The node's access list: what a deploy adds, denies and leaves alone, whenever it is run again or killed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from deploys import settings
from deploys.manifest import POSTGRES_LOGIN
from deploys.steps import access
from facts.access import AccessKeys, AccessList, PublishedAccess

OWN, OPERATOR, FORMER, OTHER = (f"04{digit * 128}" for digit in "abcd")
SETTINGS = settings.read("gpu1", {"gevulot_psk_passphrase": "the own one"})
EXTERNAL = settings.read(
    "gpu1", {"gevulot_psk_passphrase": "the own one", "gevulot_postgres_url": "postgres://a:hunter2@db/gevulot"}
)


def access_keys(listed: set[str] | None, recorded: set[str]) -> AccessKeys:
    return AccessKeys(OWN, None if listed is None else frozenset(listed), frozenset(recorded))


def wanted(*keys: str) -> frozenset[str]:
    return frozenset((OWN, *keys))


def test_a_new_list_gets_the_nodes_own_key_and_the_operators() -> None:
    change = access.change(access_keys(set(), set()), wanted(OPERATOR))
    assert (change.add, change.deny, change.recorded) == ((OWN, OPERATOR), (), {OWN, OPERATOR})


def test_a_list_as_it_should_be_is_left_alone() -> None:
    change = access.change(access_keys({OWN, OTHER}, {OWN}), wanted())
    assert (change.add, change.deny, change.recorded) == ((), (), {OWN})


def test_a_key_that_is_taken_out_of_the_setting_is_denied_and_forgotten() -> None:
    change = access.change(access_keys({OWN, FORMER}, {OWN, FORMER}), wanted())
    assert (change.add, change.deny, change.recorded) == ((), (FORMER,), {OWN})


def test_a_key_that_others_put_there_is_never_denied() -> None:
    """Not even when the setting named it for a while: it was there before, so no deploy added it."""
    named = access.change(access_keys({OWN, OTHER}, {OWN}), wanted(OTHER))
    assert (named.add, named.recorded) == ((), {OWN})
    assert access.change(access_keys({OWN, OTHER}, set(named.recorded)), wanted()).deny == ()


def test_an_emptied_list_is_filled_again() -> None:
    assert access.change(access_keys(set(), {OWN, OPERATOR}), wanted(OPERATOR)).add == (OWN, OPERATOR)


def test_another_key_of_the_node_takes_the_place_of_its_former() -> None:
    change = access.change(access_keys({FORMER}, {FORMER}), wanted())
    assert (change.add, change.deny, change.recorded) == ((OWN,), (FORMER,), {OWN})


def test_a_key_that_is_gone_already_is_only_forgotten() -> None:
    change = access.change(access_keys({OWN}, {OWN, FORMER}), wanted())
    assert (change.add, change.deny, change.recorded) == ((), (), {OWN})


def test_a_list_that_cannot_be_read_is_taken_to_be_as_recorded() -> None:
    assert access.change(access_keys(None, {OWN}), wanted()).add == ()
    change = access.change(access_keys(None, {FORMER}), wanted())
    assert (change.add, change.deny, change.recorded) == ((OWN,), (FORMER,), {OWN})


def commands(listed: AccessKeys, *keys: str, asked: settings.Settings = SETTINGS) -> list[str]:
    return list(access.commands(listed, access.change(listed, wanted(*keys)), asked))


def kind(command: str) -> str:
    verb = re.search(r"peer (04.)\w+ (whitelist|deny)$", command)
    return f"{verb[2]} {verb[1]}" if verb else "record " + "".join(sorted(re.findall(r"\b04(.)\1{127}\b", command)))


def test_a_run_that_is_killed_anywhere_forgets_no_key_that_it_added() -> None:
    lines = commands(access_keys({OTHER, FORMER}, {FORMER}), OPERATOR)
    assert [kind(each) for each in lines] == [
        "record abc",
        "whitelist 04a",
        "whitelist 04b",
        "deny 04c",
        "record ab",
    ]


def test_the_record_is_not_written_when_only_the_list_changed() -> None:
    assert [kind(each) for each in commands(access_keys(set(), {OWN}))] == ["whitelist 04a"]


def test_the_nodes_own_command_reaches_the_own_database_by_its_socket() -> None:
    (command,) = commands(access_keys(set(), {OWN}))
    assert "--volume=/run/gevulot-postgres/socket:/run/postgresql:ro,z" in command
    assert "GEVULOT_DB_URL=postgres://gevulot@localhost:5432/gevulot?host=/run/postgresql" in command
    assert "secret" not in command


def test_no_password_of_an_external_database_is_in_a_command() -> None:
    (command,) = commands(access_keys(set(), {OWN}), asked=EXTERNAL)
    assert "--secret=gevulot-db-url,type=env,target=GEVULOT_DB_URL" in command
    assert "hunter2" not in command
    assert "/run/gevulot-postgres" not in command


def test_each_database_has_a_record_of_its_own_that_names_no_secret() -> None:
    assert access.record_of(SETTINGS) == "/var/lib/gpu-host/access"
    other = EXTERNAL.model_copy(update={"postgres_url": SecretStr("postgres://a:another@db/gevulot")})
    assert access.record_of(EXTERNAL) == access.record_of(other) != access.record_of(SETTINGS)
    other = EXTERNAL.model_copy(update={"postgres_url": SecretStr("postgres://a:hunter2@db/gevulot2")})
    assert access.record_of(EXTERNAL) != access.record_of(other)


def test_the_record_is_kept_where_only_root_reads_it(tmp_path: Path) -> None:
    record = tmp_path / "deploy/access"
    subprocess.run(["sh", "-c", access.record_keys(str(record), frozenset((OWN, OTHER)))], check=True)
    assert record.read_text().split() == [OWN, OTHER]
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    subprocess.run(["sh", "-c", access.record_keys(str(record), frozenset())], check=True)
    assert not record.exists()


# --- what the host is asked


def ask(root: Path, answer: str | None, port: int | None = 5432) -> AccessKeys:
    """Ask a directory that stands for a host, whose database answers so."""
    (root / "bin").mkdir(exist_ok=True)
    podman = root / "bin/podman"
    podman.write_text("#!/bin/sh\nexit 2\n" if answer is None else f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    podman.chmod(0o755)
    files = (str(root / name) for name in ("public", "sum", "record", "former"))
    command = AccessList().command(*files, POSTGRES_LOGIN, port)
    environment = os.environ | {"PATH": f"{root}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    return AccessList().process(lines) if lines else AccessList.default()


def test_own_key_record_and_list_are_read_in_one_command(tmp_path: Path) -> None:
    (tmp_path / "sum").write_text("digest\n")
    (tmp_path / "public").write_text(f"{OWN}\n")
    (tmp_path / "record").write_text(f"{OWN}\n{FORMER}\n")
    assert ask(tmp_path, f"{OWN}\n{OTHER}") == access_keys({OWN, OTHER}, {OWN, FORMER})
    assert ask(tmp_path, None) == access_keys(None, {OWN, FORMER})
    assert ask(tmp_path, f"{OWN}", port=None) == access_keys(None, {OWN, FORMER})


def test_an_empty_list_is_another_answer_than_none(tmp_path: Path) -> None:
    assert ask(tmp_path, "").listed == frozenset()
    assert ask(tmp_path, None).listed is None


def test_a_public_key_from_before_another_key_was_recorded_is_not_taken_for_its_own(tmp_path: Path) -> None:
    for name, time in (("public", 1000), ("sum", 2000)):
        (tmp_path / name).write_text(f"{OWN}\n")
        os.utime(tmp_path / name, (time, time))
    assert ask(tmp_path, "").own is None
    os.utime(tmp_path / "public", (2000, 2000))
    assert ask(tmp_path, "").own == OWN


@pytest.mark.parametrize(
    ("content", "status"), [(f"{OTHER}\n{OWN.upper()}\n", "has"), (OTHER, "lacks"), (None, "unreachable")]
)
def test_a_published_list_is_fetched_and_searched(tmp_path: Path, content: str | None, status: str) -> None:
    path = tmp_path / "list"
    if content is not None:
        path.write_text(content)
    command = PublishedAccess().command(url=f"file://{path}", key=OWN)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert PublishedAccess().process(done.stdout.splitlines()) == status
