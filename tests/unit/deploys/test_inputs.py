"""What operators write that cannot work: each ends in one sentence with host, key, value and expectation."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploys.inputs import passphrases, secret_sources
from deploys.inputs.values import release_of_image
from deploys.settings import PREFIX, Settings, SettingsError, read, read_all

PASSPHRASE = "our own passphrase"
SECRETS = ("psk_passphrase", "postgres_url", "postgres_password")
HUNTER = "zqhunterzq"


def refusal(**keys: Any) -> str:
    with pytest.raises(SettingsError) as error:
        read("gpu1", {f"{PREFIX}{key}": value for key, value in ({"psk_passphrase": PASSPHRASE} | keys).items()})
    return str(error.value)


def refusal_of_data(data: dict[Any, Any]) -> str:
    with pytest.raises(SettingsError) as error:
        read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE} | data)
    return str(error.value)


def outcome(data: dict[Any, Any]) -> str:
    """What a reader of the settings, or of the refusal, may come to see."""
    try:
        return repr(read_all([("gpu1", {"gevulot_psk_passphrase": PASSPHRASE} | data)], read)["gpu1"])
    except SettingsError as error:
        return str(error)


# --- every value


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.binary(max_size=20),
        st.text(max_size=40),
        st.text(st.characters(), max_size=40),
        st.sampled_from(("any", "supported", "\0", "a\nb", "\ud800", "x" * 100_000, "0.0.0.0:9999", "/", "latest")),
        st.dates(),
        st.just(date),
        st.just(print),
        st.just(lambda: 1 / 0),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.none()), inner, max_size=3),
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("key", Settings.model_fields)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_any_value_of_a_key_is_taken_or_refused_by_host_and_key(key: str, value: Any) -> None:
    message = outcome({f"{PREFIX}{key}": value})
    assert PASSPHRASE not in message
    if message.startswith("gpu1: "):
        lines = message.splitlines()
        assert all(line.startswith("gpu1: gevulot_") for line in lines)
        assert any(f"{PREFIX}{key}" in line for line in lines)
        assert len(message) < 2000
        message.encode()


@given(st.dictionaries(st.one_of(st.text(max_size=12), st.integers(), st.none(), st.binary()), VALUES, max_size=4))
def test_whatever_keys_host_data_has_they_are_taken_or_refused_by_host(data: dict[Any, Any]) -> None:
    message = outcome(data)
    assert message.startswith("Settings(") or all(line.startswith("gpu1: ") for line in message.splitlines())
    message.encode()


@given(key=st.sampled_from(SECRETS), before=st.text(max_size=10), after=st.text(max_size=10), kind=st.integers(0, 4))
def test_no_part_of_a_secret_is_ever_shown(key: str, before: str, after: str, kind: int) -> None:
    text = f"{before}{HUNTER}{after}"

    def raising() -> str:
        raise RuntimeError(text)

    value: Any = (text, [text], {"a": text}, lambda: text, raising)[kind]
    assert HUNTER not in outcome({f"{PREFIX}{key}": value})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("vfio_ids", "yes", "expected True or False"),
        ("vfio_ids", 1, "expected True or False"),
        ("http_port", "9995", "expected a whole number"),
        ("http_port", True, "expected a whole number"),
        ("http_port", 9995.0, "expected a whole number"),
        ("http_port", None, "expected a whole number"),
        ("cpus", 10**30, "expected less than 1000000"),
        ("postgres_release", "16", "expected 15 or 16"),
        ("rust_log", None, "expected text"),
        ("rust_log", 5, "expected text"),
        ("rust_log", "", "not empty"),
        ("rust_log", "warn\x0binfo", "expected one line"),
        ("rust_log", "warn\u2028info", "expected one line"),
        ("rust_log", "warn\0", "expected one line"),
        ("rust_log", "x" * 5000, "expected at most 4096 characters"),
        ("provider", " qemu", "without blanks at its ends"),
        ("boards", None, "expected 'supported', or a list"),
        ("boards", "10de:2684", "expected 'supported', or a list"),
        ("boards", {"10de:2684"}, "expected 'supported', or a list"),
        ("boards", ["10de:2684", None], "expected text"),
        ("boards", [["10de:2684"]], "expected text"),
        ("boards", ["01:00"], "names no board"),
        ("boards", ["10de:2684", "10DE:2684"], "expected each once"),
        ("board_guards_allowed", ["ssh", "ssh"], "expected each once"),
        ("board_guards_allowed", "ssh", "expected a list"),
        ("p2p_discovery", ["a.example.org:1", "a.example.org:1"], "expected each once"),
        ("p2p_discovery", "a.example.org:1", "expected a list"),
        ("p2p_discovery", {"a.example.org:1": 1}, "expected a list"),
        ("peers", (each for each in ("10.0.0.0/8",)), "expected a list"),
        ("probe_ports", [(5432, 1)], "expected a mapping"),
        ("probe_ports", {"5432": 1}, "expected a whole number"),
        ("acl_whitelist_url", "example.org/acl", "expected an http or https URL"),
        ("acl_whitelist_url", "ftp://example.org/acl", "expected an http or https URL"),
        ("acl_whitelist_url", "https://", "expected an http or https URL"),
        ("acl_whitelist_url", "https://a:0/x", "expected an http or https URL"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_form_is_refused(key: str, value: Any, expected: str) -> None:
    text = refusal(**{key: value})
    assert text.startswith(f"gpu1: gevulot_{key}")
    assert expected in text
    assert "\n" not in text


def test_a_password_in_a_url_that_is_refused_is_hidden() -> None:
    assert HUNTER not in refusal(acl_whitelist_url=f"ftp://me:{HUNTER}@example.org/acl")


# --- keys


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sudo", "_sudo"),
        ("sudo_user", "_sudo_user"),
        ("_Sudo", "_sudo"),
        ("_sudo_pasword", "_sudo_password"),
        ("ssh_usr", "ssh_user"),
        ("ssh-user", "ssh_user"),
        ("SSH_PORT", "ssh_port"),
        ("ssh_host", "ssh_hostname"),
        ("ssh_key_file", "ssh_key"),
        ("ssh_colour", "one of ssh_"),
        ("user", "ssh_user"),
        ("become", "_sudo"),
        ("ansible_user", "ssh_user"),
    ],
)
def test_a_key_that_pyinfra_would_ignore_is_answered_with_its_own(key: str, meant: str) -> None:
    assert f"gpu1: {key}: pyinfra ignores this key; did you mean {meant}".replace("ssh-user", "'ssh-user'") in (
        refusal_of_data({key: True})
    )


@pytest.mark.parametrize("key", ["region", "rack", "env", "timeout", "key", "name", "_helper", "serial", "notes"])
def test_an_operators_own_data_may_have_any_other_name(key: str) -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, key: "x"})


def test_a_word_is_an_operators_own_where_pyinfras_key_is_set_too() -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "user": "x", "ssh_user": "root"})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ssh_port", "22", "between 1 and 65535"),
        ("ssh_port", 0, "between 1 and 65535"),
        ("ssh_port", True, "between 1 and 65535"),
        ("_sudo", "False", "expected True or False"),
        ("ssh_user", 0, "expected text"),
        ("ssh_user", "", "expected text"),
        ("ssh_hostname", "a\nb", "expected text"),
        ("ssh_allow_agent", "no", "expected True or False"),
    ],
)
def test_a_value_of_pyinfras_that_it_takes_for_another_is_refused(key: str, value: Any, expected: str) -> None:
    text = refusal_of_data({key: value})
    assert text.startswith(f"gpu1: {key} is {value!r}: ")
    assert expected in text


@pytest.mark.parametrize("key", ["Gevulot_reboot", "GEVULOT_REBOOT", "gevulot-reboot", "gevulot_", "gevulot_reboot\n"])
def test_a_key_of_ours_in_another_spelling_is_unknown(key: str) -> None:
    text = refusal_of_data({key: "never"})
    assert "unknown key" in text
    assert "\n" not in text


def test_a_key_that_is_no_text_is_refused() -> None:
    assert refusal_of_data({5: "x"}) == "gpu1: 5: expected text as the key of host data"


# --- secrets


def _fails(error: BaseException) -> Callable[[], str]:
    def function() -> str:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (_fails(subprocess.CalledProcessError(3, ["pass", HUNTER], HUNTER)), "CalledProcessError (exit status 3)"),
        (_fails(RuntimeError(HUNTER)), "RuntimeError"),
        (_fails(TypeError(HUNTER)), "TypeError"),
        (_fails(KeyError(HUNTER)), "KeyError"),
        (_fails(OSError(HUNTER)), "OSError"),
        (_fails(FileNotFoundError(2, HUNTER, HUNTER)), "FileNotFoundError (No such file or directory)"),
        (_fails(subprocess.TimeoutExpired(["pass", HUNTER], 3)), "TimeoutExpired"),
        (_fails(SystemExit(HUNTER)), "SystemExit"),
        (_fails(UnicodeDecodeError("utf-8", HUNTER.encode(), 0, 1, "x")), "UnicodeDecodeError"),
        (lambda word: word, "TypeError"),
        (lambda: None, "returned None"),
        (lambda: HUNTER.encode(), "returned a value of type bytes"),
        (lambda: [HUNTER], "returned a value of type list"),
        (lambda: lambda: HUNTER, "returned a value of type function"),
        (lambda: "", "neither empty nor a placeholder"),
        (lambda: " \t ", "neither empty nor a placeholder"),
        (lambda: f"{HUNTER}\r", "a secret of one line"),
        (lambda: f"\ufeff{HUNTER}", "a secret of one line"),
        (lambda: HUNTER * 1000, "at most 4096 characters"),
    ],
)
@pytest.mark.parametrize("key", SECRETS)
def test_a_function_that_gives_no_secret_is_named_without_its_own_words(
    key: str, function: Callable[..., object], expected: str
) -> None:
    text = refusal(**{key: function})
    assert text.startswith(f"gpu1: gevulot_{key} is (hidden): ")
    assert expected in text
    assert HUNTER not in text
    assert "\n" not in text


def test_a_file_that_holds_no_text_is_named_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"\xff" + HUNTER.encode())
    text = refusal(psk_passphrase=secret_sources.from_file(str(path)))
    assert f"'{path}' holds no text; expected UTF-8" in text
    assert HUNTER not in text


def test_a_secret_in_the_home_directory_is_found_by_its_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret").write_text(f"{PASSPHRASE}\n")
    assert secret_sources.from_file("~/secret")() == PASSPHRASE


def test_the_passphrase_is_read_from_the_environment_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_PSK_PASSPHRASE", PASSPHRASE)
    assert read("gpu1", {}).psk_passphrase.get_secret_value() == PASSPHRASE


@pytest.mark.parametrize(
    "guessed",
    [
        *("a", "changeme", "change-me-now", "ChangeMe123", "ch4ng3m3!", "password", "P@ssw0rd", "Passw0rd2024!"),
        *("12345678", "87654321", "aaaaaaaa", "abcabcabc", "abcdefgh", "qwertyuiop", "qwerty123", "letmein1"),
        *("gevulot", "gevulot passphrase", "my secret passphrase", "test test test"),
        *("Pack my box with five dozen liquor jugs!", "Pack my box with five dozen liquor jug", "        "),
        *("pack my box with 5 dozen liquor jugs", "Pack my box with six dozen liquor jugs."),
        *("<coordinated pre-shared key for P2P network>", "coordinated preshared key of the P2P network"),
        *("supersecret", "0000000000", "your-passphrase-here", "insert passphrase here", "................"),
    ],
)
def test_a_passphrase_that_strangers_know_or_guess_is_refused(guessed: str) -> None:
    assert "gpu1: gevulot_psk_passphrase is (hidden): expected" in refusal(psk_passphrase=guessed)


@pytest.mark.parametrize(
    "own",
    ["our own passphrase", "zebra-lamp-quartz-violin", "f3a9c1d27b6e", "パスフレーズは秘密です", "x7!kQ2#pL9@v",
     "83492017466120398475223"],
)  # fmt: skip
def test_a_passphrase_of_ones_own_is_taken(own: str) -> None:
    assert passphrases.find_problem(own) is None


def test_a_passphrase_with_a_blank_at_its_end_is_refused() -> None:
    assert "without blanks at its ends" in refusal(psk_passphrase="zebra-lamp-quartz ")


# --- the database


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgres://u:p@ss@h/db", "must be percent-encoded"),
        ("postgres://u:p:s@h/db", "must be percent-encoded"),
        ("postgres://u:p/s@h/db", "must be percent-encoded"),
        ("postgres://u:p#s@h/db", "must be percent-encoded"),
        ("postgres://u:p?s@h/db", "must be percent-encoded"),
        ("postgres://u:pässword@h/db", "must be percent-encoded"),
        ("postgres://u:p s@h/db", "must be percent-encoded"),
        ("postgres://u:p%@h/db", "must be percent-encoded"),
        ("postgres://u:p%00@h/db", "must be percent-encoded"),
        ("postgres://u:p%ff@h/db", "must be percent-encoded"),
        ("postgres://u@h/db", "no password"),
        ("postgres://u:@h/db", "no password"),
        ("postgres://:p@h/db", "no user"),
        ("postgres://h/db", "no user"),
        ("postgres://u:p@h", "no database"),
        ("postgres://u:p@h/", "no database"),
        ("postgres://u:p@h/?sslmode=require", "no database"),
        ("postgres://u:p@h/a/b", "database's name"),
        ("postgres://u:p@/db", "no valid host"),
        ("postgres://u:p@:5432/db", "no valid host"),
        ("postgres://u:p@a,b/db", "no valid host"),
        ("postgres://u:p@999.1.1.1/db", "no valid host"),
        ("postgres://u:p@::1/db", "no valid host"),
        ("postgres://u:p@[:::::]/db", "no valid host"),
        ("postgres://u:p@h:0/db", "port"),
        ("postgres://u:p@h:70000/db", "port"),
        ("postgres://u:p@h:/db", "port"),
        ("postgres://u:p@h/db?host=other", "sets host again"),
        ("postgres://u:p@h/db?sslmode", "KEY=VALUE"),
        ("postgres://u:p@h/db#x", "database's name"),
        ("mysql://u:p@h/db", "does not begin with postgres://"),
        ("POSTGRES://u:p@h/db", "does not begin with postgres://"),
        ("u:p@h/db", "does not begin with postgres://"),
        ("postgres:/u:p@h/db", "does not begin with postgres://"),
    ],
)
def test_a_database_url_that_its_readers_take_differently_is_refused(url: str, problem: str) -> None:
    text = refusal(postgres_url=url)
    assert text.startswith("gpu1: gevulot_postgres_url is (hidden): expected postgres://user:password@host:port/name")
    assert problem in text


@pytest.mark.parametrize(
    "url",
    ["postgres://u:p%40ss@db.example.org/name", "postgresql://u:p@10.0.0.7:5433/n?sslmode=require",
     "postgres://u:p@[2001:db8::7]:5432/n"],
)  # fmt: skip
def test_a_whole_database_url_is_taken(url: str) -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_postgres_url": url})


# --- paths, images, addresses


@pytest.mark.parametrize(
    "path",
    [
        *("/var/lib/postgresql", "/var/lib/postgresql/16", "/var/lib/systemd", "/var/lib/docker/x", "/var/lib/dpkg"),
        *("/var/lib/containers/storage", "/var/lib/pcibind", "/var/log/gevulot", "/var/cache/gevulot", "/var/lib"),
        *("/usr/local/gevulot", "/nix/store/x", "/boot/gevulot", "/", "//", "/data", "/home/me/node", "relative", ""),
        *("/data/gevulot/../../etc", "/data/\0", "/data/a\n", "/data/ä", "/" + "a/" * 5000 + "b"),
    ],
)
def test_a_storage_that_belongs_to_others_is_refused(path: str) -> None:
    assert "gpu1: gevulot_storage_directory is " in refusal(storage_directory=path)


@pytest.mark.parametrize(
    ("image", "release"),
    [
        ("docker.io/library/postgres:16-alpine", 16),
        ("docker.io/library/postgres:15", 15),
        ("docker.io/library/postgres:18beta1-alpine", 18),
        ("docker.io/library/postgres:16.4-bookworm@sha256:" + "0" * 64, 16),
        ("registry.example.net:5000/mirror/postgres:17", 17),
        ("docker.io/bitnami/postgresql:16.4.0-debian-12-r1", 16),
        ("docker.io/pgvector/pgvector:pg16", 16),
        ("docker.io/timescale/timescaledb:2.15.3-pg15", 15),
        ("docker.io/timescale/timescaledb:2.15.3", None),
        ("docker.io/library/postgres:latest", None),
        ("quay.io/own/postgres:20240101", None),
        ("registry.example.net:5000/mirror/postgres@sha256:" + "0" * 64, None),
    ],
)
def test_a_tag_that_names_another_release_of_postgres_is_refused(image: str, release: int | None) -> None:
    assert release_of_image(image) == release
    for asked_for in (15, 16):
        keys = {"postgres_image": image, "postgres_release": asked_for}
        text = outcome({f"{PREFIX}{key}": value for key, value in keys.items()})
        wrong = release not in (None, asked_for) or image.endswith(":latest")
        assert ("but gevulot_postgres_release is" in text) == wrong


@pytest.mark.parametrize(
    "image",
    [
        *("node", "node:latest", "gevulot/node:latest", "library/postgres:16", "quay.io/gevulot/node", "quay.io/node:"),
        *("quay.io/Gevulot/node:1", "https://quay.io/gevulot/node:1", "quay.io/gevulot/node@sha256:0a", "quay.io//n:1"),
        *(
            "quay.io/gevulot/node:1 ",
            "docker://quay.io/gevulot/node:1",
            "quay.io/gevulot/node:-1",
            "",
            ":1",
            "a.b/c:\n",
        ),
    ],
)
@pytest.mark.parametrize("key", ["node_image", "postgres_image"])
def test_an_image_without_registry_or_tag_is_refused(key: str, image: str) -> None:
    assert f"gpu1: gevulot_{key} is " in refusal(**{key: image})


PINNED = f"quay.io/gevulot/node@sha256:{'0a' * 32}"


def test_an_image_may_be_pinned_but_not_be_updated_too() -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_node_image": PINNED})
    assert "gevulot_auto_update is True, but gevulot_node_image is" in refusal(node_image=PINNED, auto_update=True)
    both = PINNED.replace("@", ":1@")
    assert "gevulot_auto_update is True, but gevulot_node_image is" in refusal(node_image=both, auto_update=True)


@pytest.mark.parametrize("tag", ["18-alpine", "15", "15.4", "latest"])
def test_a_tag_that_says_another_release_of_postgres_is_refused(tag: str) -> None:
    text = refusal(postgres_image=f"docker.io/library/postgres:{tag}")
    assert f"gevulot_postgres_image is 'docker.io/library/postgres:{tag}', but gevulot_postgres_release is 16" in text


@pytest.mark.parametrize("tag", ["16", "16.4-bookworm", "own-build", "20241105"])
def test_a_tag_that_says_this_release_of_postgres_or_none_is_taken(tag: str) -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_postgres_image": f"docker.io/library/postgres:{tag}"})


WRONG_LISTENS = (
    *("999.1.1.1:9999", "[:::::]:9999", "1.2.3:9999", "::1:9999", "2001:db8::1:9999", "0.0.0.0:0", "0.0.0.0:70000"),
    *("0.0.0.0:09999", "0.0.0.0:+999", "0.0.0.0:9999 ", " 0.0.0.0:9999", "0.0.0.0 :9999", "010.0.0.1:9999", ":9999"),
    *("[::1]", "[::1%lo]:9999", "[10.0.0.1]:9999", "224.0.0.1:9999", "[ff02::1]:9999", "255.255.255.255:9999"),
    *("0.0.0.0:9999\n", "0.0.0.0:9999\0", "http://0.0.0.0:9999", "0.0.0.0:9999/", "*:9999", "０.0.0.0:9999", ""),
)


@pytest.mark.parametrize("listen", WRONG_LISTENS)
@pytest.mark.parametrize(
    "key", ["p2p_listen", "p2p_advertised", "json_rpc_listen", "healthcheck_listen", "metrics_listen"]
)
def test_an_address_that_nothing_can_listen_on_is_refused(key: str, listen: str) -> None:
    assert f"gpu1: gevulot_{key} is {listen!r}: expected IP:PORT" in refusal(**{key: listen})


@pytest.mark.parametrize("name", ["localhost:9999", "gpu1.example.org:9999", "gpu1:9999"])
def test_a_name_is_no_address_to_listen_on_since_the_node_resolves_none(name: str) -> None:
    assert "expected IP:PORT" in refusal(p2p_listen=name, peers=["10.0.0.0/8"])
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_p2p_discovery": [name]})


@pytest.mark.parametrize(
    "contact", [*WRONG_LISTENS, "a b:1", "-a:1", "a..b:1", "a:b:1", "ä.example:1", "a" * 300 + ":1"]
)
def test_an_address_that_nothing_can_connect_to_is_refused(contact: str) -> None:
    assert f"gpu1: gevulot_p2p_discovery[0] is {contact!r:.50}"[:60] in refusal(p2p_discovery=[contact])


@pytest.mark.parametrize(
    "address", ["[::ffff:127.0.0.1]:9999", "[::ffff:0.0.0.0]:9999", "[0::0]:9999", "169.254.1.1:9999", "[fe80::1]:9999"]
)
def test_an_address_that_means_this_host_or_this_link_is_not_advertised(address: str) -> None:
    text = refusal(p2p_listen="0.0.0.0:9999", peers=["10.0.0.0/8"], p2p_advertised=address)
    assert "expected the address at which peers reach the node" in text


@pytest.mark.parametrize(
    "profile", ["unconfined", "own.json", "./own.json", "/", "/etc/", "~/x.json", "/etc/a b", "\0"]
)
def test_a_seccomp_profile_is_an_absolute_path(profile: str) -> None:
    text = refusal(seccomp_profile=profile)
    assert (
        f"gpu1: gevulot_seccomp_profile is {profile!r}: expected the absolute path of a JSON file on the node" in text
    )


def test_all_settings_that_do_not_fit_together_are_reported_at_once() -> None:
    text = refusal(p2p_advertised="203.0.113.7:9999", http_port=9999, boards=[], vfio_ids=True)
    assert [line.split(" ")[1] for line in text.splitlines()] == [
        "gevulot_http_port",
        "gevulot_vfio_ids",
        "gevulot_p2p_advertised",
    ]
