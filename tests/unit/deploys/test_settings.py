"""Host data: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from deploys import settings
from deploys.inputs import secret_sources
from deploys.inputs.addresses import Endpoint
from deploys.settings import PREFIX, HostSettings, Settings, SettingsError, read, read_all, read_host
from pcibind.model.request import Selector
from tests.unit.deploys.recorded import PUBLIC_KEY

PASSPHRASE = "our own passphrase"
DEFAULTS: dict[str, Any] = {
    "boards": "supported",
    "board_guards_allowed": (),
    "gpu_functions": "display",
    "vfio_ids": False,
    "enforce_minimum": False,
    "reboot": "when-needed",
    "reboot_timeout": 900,
    "reboot_batch": 1,
    "storage_directory": "/var/lib/gevulot",
    "node_image": "quay.io/gevulot/node:latest",
    "auto_update": False,
    "start_timeout": 1800,
    "seccomp_profile": "",
    "postgres_url": None,
    "postgres_image": "docker.io/library/postgres:16-alpine",
    "postgres_release": 16,
    "postgres_password": None,
    "postgres_port": 5432,
    "rust_log": "warn,gevulot=debug,sqlx=error",
    "p2p_listen": Endpoint.parse("127.0.0.1:9999"),
    "p2p_advertised": None,
    "peers": (),
    "p2p_discovery": (),
    "json_rpc_listen": Endpoint.parse("127.0.0.1:9944"),
    "healthcheck_listen": Endpoint.parse("127.0.0.1:8888"),
    "metrics_listen": None,
    "http_port": 9995,
    "vsock_listen_port": 8080,
    "acl_whitelist": (),
    "acl_whitelist_url": None,
    "cpus": None,
    "mem_gb": None,
    "provider": None,
    "qemu_path": None,
    "no_execution": False,
    "verify_virtual_machine": True,
    "probe_ports": {},
}


def checked(**keys: Any) -> Settings:
    return read("gpu1", {f"{PREFIX}{key}": value for key, value in ({"psk_passphrase": PASSPHRASE} | keys).items()})


def refusal(**keys: Any) -> str:
    with pytest.raises(SettingsError) as error:
        checked(**keys)
    return str(error.value)


@pytest.mark.parametrize(("key", "default"), DEFAULTS.items())
def test_every_key_but_the_passphrase_has_its_default(key: str, default: object) -> None:
    assert getattr(checked(), key) == default


def test_no_key_is_without_an_expectation_here() -> None:
    assert set(Settings.model_fields) == {*DEFAULTS, "psk_passphrase"}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("boards", ["01:00"], "names no board: expected an address"),
        ("boards", "all", "supported"),
        ("board_guards_allowed", ["vfio-open"], "expected 'default-route', 'ssh'"),
        ("gpu_functions", "audio", "'display' or 'all'"),
        ("vfio_ids", "perhaps", "expected True or False"),
        ("enforce_minimum", "perhaps", "expected True or False"),
        ("reboot", "maybe", "'when-needed' or 'never'"),
        ("reboot_timeout", 5, "greater than or equal to 60"),
        ("reboot_batch", 0, "greater than or equal to 1"),
        ("storage_directory", "var/lib/gevulot", "expected an absolute path"),
        ("storage_directory", "/srv/../etc", "expected an absolute path"),
        ("storage_directory", "/srv/with blank", "expected an absolute path"),
        ("storage_directory", "/data/./gevulot", "expected an absolute path"),
        ("storage_directory", "/data/gevulot/", "expected an absolute path"),
        ("storage_directory", "/home", "expected a directory of its own"),
        ("storage_directory", "/var", "expected a directory of its own"),
        ("storage_directory", "/var/lib", "expected a directory of its own"),
        ("storage_directory", "/etc/x", "expected a directory of its own"),
        ("storage_directory", "/data", "expected a directory of its own"),
        ("node_image", "node", "expected a full image reference"),
        ("auto_update", "perhaps", "expected True or False"),
        ("start_timeout", 1, "greater than or equal to 60"),
        ("seccomp_profile", "profile.json", "expected the absolute path of a JSON file"),
        ("postgres_image", "postgres:16", "expected a full image reference"),
        ("postgres_release", 14, "15 or 16"),
        ("postgres_port", 0, "greater than 0"),
        ("rust_log", "warn\ninfo", "expected one line"),
        ("p2p_listen", "0.0.0.0", "expected IP:PORT"),
        ("p2p_listen", "0.0.0.0:65536", "expected IP:PORT"),
        ("p2p_advertised", "9999", "expected IP:PORT"),
        ("peers", ["192.0.2.0/24", "192.0.2.7/24"], "expected a network without host bits, probably '192.0.2.0/24'"),
        ("peers", ["2001:db8::1/32"], "expected a network without host bits, probably '2001:db8::/32'"),
        ("peers", ["0.0.0.0/0"], "to let everybody in, write ('any',)"),
        ("peers", ["::/0"], "to let everybody in, write ('any',)"),
        ("peers", ["::ffff:10.0.0.0/104"], "expected the IPv4 network itself"),
        ("healthcheck_listen", "127.0.0.1.example.org:8888", "expected IP:PORT"),
        ("peers", ["all"], "expected a network such as '203.0.113.0/24'"),
        ("peers", ["fe80::%eth0/64"], "expected a network such as"),
        ("peers", [3221225985], "expected a network such as"),
        ("peers", "192.0.2.0/24", "expected a list"),
        ("p2p_discovery", ["host:1", "host:"], "expected ADDRESS:PORT"),
        ("json_rpc_listen", "localhost", "expected IP:PORT"),
        ("healthcheck_listen", ":8888", "expected IP:PORT"),
        ("healthcheck_listen", "0.0.0.0:8888", "expected a loopback address"),
        ("healthcheck_listen", "[::]:8888", "expected a loopback address"),
        ("healthcheck_listen", "192.0.2.1:8888", "expected a loopback address"),
        ("metrics_listen", "[::1]", "expected IP:PORT"),
        ("http_port", 70000, "less than 65536"),
        ("vsock_listen_port", "no", "expected a whole number"),
        ("acl_whitelist", [PUBLIC_KEY, PUBLIC_KEY[:-1]], "expected a public key of 130 hexadecimal digits"),
        ("acl_whitelist", ["02" + PUBLIC_KEY[2:66]], "expected a public key of 130 hexadecimal digits"),
        ("acl_whitelist", [PUBLIC_KEY[:-1] + "9"], "so a digit is mistyped"),
        ("acl_whitelist_url", "https://a\nb", "expected an http or https URL"),
        ("cpus", 0, "greater than 0"),
        ("mem_gb", -1, "greater than 0"),
        ("provider", "qemu\n", "expected one line"),
        ("qemu_path", "qemu", "expected an absolute path"),
        ("no_execution", "perhaps", "expected True or False"),
        ("probe_ports", {5432: 0}, "greater than 0"),
    ],
)
def test_a_wrong_value_is_refused_with_host_key_value_and_expectation(key: str, value: object, expected: str) -> None:
    text = refusal(**{key: value})
    assert text.startswith(f"gpu1: {PREFIX}{key}")
    # Of a list, only the wrong item is shown.
    assert repr(value[-1] if isinstance(value, list) else value) in text
    assert expected in text


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("gevulot_p2p_listne", "gevulot_p2p_listen"),
        ("gevulot_postgress_url", "gevulot_postgres_url"),
        ("gevulott_reboot", "gevulot_reboot"),
        ("storage_directory", "gevulot_storage_directory"),
    ],
)
def test_a_typo_in_a_key_is_answered_with_the_intended_key(key: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"gpu1: {key}: unknown key.* {meant}\b"):
        read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, key: "x"})


def test_a_key_like_no_other_is_refused_too() -> None:
    with pytest.raises(SettingsError, match=r"gpu1: gevulot_colour: unknown key; docs/settings\.md lists"):
        read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_colour": "red"})


def test_keys_of_pyinfra_are_left_alone() -> None:
    read("gpu1", {"gevulot_psk_passphrase": PASSPHRASE, "ssh_user": "root", "_sudo": True, "ssh_port": 22})


def test_a_missing_passphrase_is_asked_for_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEVULOT_PSK_PASSPHRASE", raising=False)
    with pytest.raises(SettingsError, match="the environment variable GEVULOT_PSK_PASSPHRASE is not set; export it"):
        read("gpu1", {})


@pytest.mark.parametrize("key", ["psk_passphrase", "postgres_password", "postgres_url"])
@pytest.mark.parametrize("value", ["hunter2\n", "hunter2\nhunter3", 31337_31337, ["hunter2"]])
def test_a_wrong_secret_is_refused_without_being_shown(key: str, value: object) -> None:
    text = refusal(**{key: value})
    assert f"gpu1: {PREFIX}{key}" in text
    assert "hunter" not in text
    assert "31337" not in text


@given(st.text(alphabet=st.characters(categories=("L", "N")), min_size=8, max_size=30))
def test_no_part_of_a_secret_url_is_shown(password: str) -> None:
    assert f"zq{password}" not in refusal(postgres_url=f"mysql://gevulot:zq{password}@db/gevulot")


def test_checked_secrets_print_as_stars() -> None:
    node = checked(postgres_password="hunter2")
    assert PASSPHRASE not in repr(node)
    assert "hunter2" not in repr(node)
    assert node.postgres_password == SecretStr("hunter2")


def test_a_secret_may_be_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_TEST_SECRET", PASSPHRASE)
    node = checked(psk_passphrase=secret_sources.from_environment("GEVULOT_TEST_SECRET"))
    assert node.psk_passphrase.get_secret_value() == PASSPHRASE


def test_a_secret_whose_variable_is_not_set_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEVULOT_TEST_SECRET", raising=False)
    text = refusal(psk_passphrase=secret_sources.from_environment("GEVULOT_TEST_SECRET"))
    assert text == "gpu1: gevulot_psk_passphrase is (hidden): the secret could not be read: " \
        "the environment variable GEVULOT_TEST_SECRET is not set; export it first"  # fmt: skip


def test_a_secret_may_be_the_first_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{PASSPHRASE}\n")
    assert checked(psk_passphrase=secret_sources.from_file(str(path))).psk_passphrase.get_secret_value() == PASSPHRASE


def test_a_secret_whose_file_is_not_there_says_so(tmp_path: Path) -> None:
    text = refusal(psk_passphrase=secret_sources.from_file(str(tmp_path / "none")))
    assert "gpu1: gevulot_psk_passphrase is (hidden): the secret could not be read: " in text
    assert f"No such file or directory: '{tmp_path}/none'" in text


@pytest.mark.parametrize("placeholder", ["…", "...", " "])
def test_a_placeholder_is_no_secret(placeholder: str) -> None:
    assert "neither empty nor a placeholder" in refusal(psk_passphrase=placeholder)


def test_two_things_on_one_port_are_refused() -> None:
    text = refusal(p2p_listen="0.0.0.0:9995")
    assert "gevulot_http_port and gevulot_p2p_listen are both port 9995" in text


@pytest.mark.parametrize("address", ["0.0.0.0:9999", "127.0.0.1:9999", "[::]:9999"])
def test_an_address_that_no_peer_can_reach_is_not_advertised(address: str) -> None:
    assert "expected the address at which peers reach the node" in refusal(p2p_advertised=address)


@pytest.mark.parametrize(
    "public",
    [
        "Pack my box with five dozen liquor jugs.",
        "Pack my box with five dozen liquor jugs",
        "pack my box with five dozen liquor jugs.",
        "PACK MY BOX WITH FIVE DOZEN LIQUOR JUGS!",
        " Pack my  box with five dozen liquor jugs. ",
        "Packmyboxwithfivedozenliquorjugs",
        "pack-my-box-with-five-dozen-liquor-jugs",
        "the quick brown fox jumps over the lazy dog",
        "The quick brown fox jumps over the lazy dog.",
        " THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG ",
        "changeme",
        "Change me!",
        "<coordinated pre-shared key for P2P network>",
        "secret passphrase",
    ],
)
def test_a_public_passphrase_is_refused_in_every_spelling(public: str) -> None:
    text = refusal(psk_passphrase=public)
    assert "gevulot_psk_passphrase is (hidden): expected the network's own; this one is public" in text


def test_a_passphrase_that_can_be_guessed_is_refused() -> None:
    assert "expected at least 8 characters" in refusal(psk_passphrase="7 signs")
    assert checked(psk_passphrase="8 signs!").psk_passphrase.get_secret_value() == "8 signs!"


def test_a_passphrase_that_only_starts_like_the_public_one_is_accepted() -> None:
    own = "Pack my box with our forty purple reeds and a lamp."
    assert checked(psk_passphrase=own).psk_passphrase.get_secret_value() == own


def test_public_keys_are_kept_in_small_letters() -> None:
    assert checked(acl_whitelist=[PUBLIC_KEY.upper()]).acl_whitelist == (PUBLIC_KEY,)


def test_a_list_of_keys_and_a_url_exclude_each_other() -> None:
    text = refusal(acl_whitelist=[PUBLIC_KEY], acl_whitelist_url="https://a/list")
    assert "gevulot_acl_whitelist and gevulot_acl_whitelist_url are both set" in text


def test_a_url_and_a_password_exclude_each_other() -> None:
    text = refusal(postgres_url="postgres://gevulot:x@db/gevulot", postgres_password="hunter2")
    assert "gevulot_postgres_password" in text
    assert "gevulot_postgres_url" in text


@pytest.mark.parametrize("url", ["db.example.net", "http://db/gevulot", "postgres:///gevulot", "postgres://u:p@db"])
def test_what_is_no_database_url_is_refused(url: str) -> None:
    assert "gevulot_postgres_url is (hidden): expected postgres://user:password@host:port/name" in refusal(
        postgres_url=url
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgres://gevulot:pass/word@db.example.net:5432/gevulot",
        "postgres://gevulot:x@db.example.net:99999/gevulot",
        "postgres://gevulot:x@db.example.net:five/gevulot",
        "postgres://gevulot:x@[::1/gevulot",
    ],
)
def test_a_database_url_that_its_readers_parse_differently_is_refused(url: str) -> None:
    assert "gevulot_postgres_url is (hidden): expected postgres://user:password@host:port/name" in refusal(
        postgres_url=url
    )


@pytest.mark.parametrize("url", ["postgres://gevulot:zq%zz@db/gevulot", "postgres://gevulot:zq1%@db/gevulot"])
def test_a_stray_per_cent_sign_in_a_database_url_is_refused_without_being_shown(url: str) -> None:
    text = refusal(postgres_url=url)
    assert "gevulot_postgres_url is (hidden): expected postgres://user:password@host:port/name" in text
    assert "zq" not in text


def test_an_encoded_password_in_a_database_url_is_taken() -> None:
    url = "postgres://gevulot:p%40ss%2Fw%3Ard%25@db/gevulot"
    assert checked(postgres_url=url).postgres_url == SecretStr(url)


@pytest.mark.parametrize("directory", ["/data/gevulot", "/a..b/c", "/srv/gevulot", "/var/lib/gevulot"])
def test_a_directory_of_its_own_is_taken_for_the_storage(directory: str) -> None:
    assert checked(storage_directory=directory).storage_directory == directory


@pytest.mark.parametrize("address", ["127.0.0.1:8888", "[::1]:8888", "127.3.2.1:8889"])
def test_the_health_check_may_listen_on_loopback(address: str) -> None:
    assert checked(healthcheck_listen=address).healthcheck_listen == Endpoint.parse(address)


def test_ids_for_vfio_without_a_board_are_refused() -> None:
    assert "gevulot_vfio_ids is set, but gevulot_boards chooses no board" in refusal(boards=[], vfio_ids=True)


def test_the_problems_of_all_hosts_and_keys_are_reported_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        read_all(
            (
                ("one", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_reboot": "maybe", "gevulot_http_port": 0}),
                ("two", {"gevulot_psk_passphrase": PASSPHRASE}),
                ("three", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_colour": "red"}),
            ),
            read,
        )
    lines = str(error.value).splitlines()
    assert [re.match(r"(\w+): (\w+)", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("one", "gevulot_reboot"),
        ("one", "gevulot_http_port"),
        ("three", "gevulot_colour"),
    ]


def test_right_data_gives_the_settings_of_each_host() -> None:
    by_host = read_all([("one", {"gevulot_psk_passphrase": PASSPHRASE, "gevulot_http_port": 1})], read)
    assert by_host["one"].http_port == 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [("0000:0A:00.0", "0000:0a:00.0"), ("0000:00/01.0/00", "0000:00/01.0/00"), ("10DE:2684", "10de:2684")],
)
def test_boards_are_named_by_address_path_or_model(text: str, kept: str) -> None:
    assert checked(boards=[text]).boards == (Selector.parse(kept),)


_TAKEN = {5432, 8888, 9944, 9995}  # by the other settings' defaults


@pytest.mark.parametrize("listen", ["0.0.0.0:9999", "[::]:9999", "192.0.2.7:9999"])
def test_listening_outside_of_loopback_needs_the_networks_of_peers(listen: str) -> None:
    text = refusal(p2p_listen=listen)
    assert f"gevulot_peers is not set, but gevulot_p2p_listen is '{listen}'" in text
    assert "expected the networks that may reach ports 9999 and 9995: set gevulot_peers" in text
    assert checked(p2p_listen=listen, peers=["192.0.2.0/24"]).p2p_listen == Endpoint.parse(listen)


def test_an_advertised_address_needs_one_that_peers_can_reach() -> None:
    for peers in ([], ["192.0.2.0/24"]):
        text = refusal(p2p_advertised="192.0.2.7:9999", peers=peers)
        assert "gevulot_p2p_advertised is '192.0.2.7:9999', but gevulot_p2p_listen is the loopback address" in text
        assert "set gevulot_p2p_listen" in text
        assert "gevulot_peers" in text


def test_networks_of_peers_without_an_address_that_they_can_reach_are_refused() -> None:
    assert "gevulot_peers is set, but gevulot_p2p_listen is the loopback" in refusal(peers=["192.0.2.0/24"])


def test_everybody_is_written_out_and_alone() -> None:
    node = checked(p2p_listen="0.0.0.0:9999", peers=("any",))
    assert node.open_to_any
    assert node.peer_networks == ()
    assert "expected ('any',) alone" in refusal(p2p_listen="0.0.0.0:9999", peers=("any", "192.0.2.0/24"))
    halves = ("0.0.0.0/1", "128.0.0.0/1")
    assert "names networks that together are everybody" in refusal(p2p_listen="0.0.0.0:9999", peers=halves)


def test_networks_are_read_as_networks_and_those_inside_of_others_are_left_out() -> None:
    node = checked(
        p2p_listen="[::]:9999", peers=["2001:db8::/32", "10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.0.2.7"]
    )
    assert [str(each) for each in node.peer_networks] == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]


@given(
    st.ip_addresses().filter(lambda each: not each.is_multicast),
    st.integers(1, 65535).filter(lambda port: port not in _TAKEN),
)
def test_every_address_with_a_port_can_be_listened_on(address: Any, port: int) -> None:
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    reached = getattr(address, "ipv4_mapped", None) or address
    assume(not reached.is_multicast and str(reached) != "255.255.255.255")
    listen = checked(p2p_listen=text, peers=() if reached.is_loopback else ("192.0.2.0/24",)).p2p_listen
    assert (listen.address, listen.port, str(listen)) == (reached, port, text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_check_of_a_key(text: str) -> None:
    for key in ("boards", "storage_directory", "node_image", "p2p_listen", "postgres_url", "seccomp_profile"):
        with suppress(SettingsError):
            checked(**{key: text})


def test_the_two_tables_list_every_key_once() -> None:
    rows = [row for kind in (HostSettings, Settings) for row in settings.table(kind).splitlines()[2:]]
    assert [row.split("`")[1] for row in rows] == [PREFIX + key for key in Settings.model_fields]
    assert "| `gevulot_psk_passphrase` | **required** |" in settings.table(Settings)
    assert "gevulot_psk" not in settings.table(HostSettings)


# --- a host without a node

HOSTS_KEYS = {"boards", "board_guards_allowed", "vfio_ids", "reboot", "reboot_timeout", "reboot_batch"}


def test_a_host_has_few_keys_and_needs_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEVULOT_PSK_PASSPHRASE", raising=False)
    assert set(HostSettings.model_fields) == HOSTS_KEYS
    assert read_host("gpu1", {}) == HostSettings()


@pytest.mark.parametrize("key", sorted(HOSTS_KEYS))
def test_a_host_and_its_node_take_the_same_values(key: str) -> None:
    assert getattr(read_host("gpu1", {}), key) == getattr(checked(), key)
    with pytest.raises(SettingsError, match=f"^gpu1: gevulot_{key} is "):
        read_host("gpu1", {f"gevulot_{key}": object()})


def test_the_keys_of_a_node_are_known_to_a_host_and_not_looked_at() -> None:
    data = {"gevulot_psk_passphrase": "", "gevulot_http_port": "none", "gevulot_p2p_advertised": 1, "ssh_user": "root"}
    assert read_host("gpu1", {**data, "gevulot_boards": []}).boards == ()


def test_a_typo_is_refused_for_a_host_too() -> None:
    with pytest.raises(SettingsError) as error:
        read_host(
            "gpu1", {"gevulot_rebot": "never", "gevulot_http_prot": 1, "gevulot_vfio_ids": True, "gevulot_boards": []}
        )
    assert str(error.value).splitlines() == [
        "gpu1: gevulot_rebot: unknown key; did you mean gevulot_reboot?",
        "gpu1: gevulot_http_prot: unknown key; did you mean gevulot_http_port?",
        "gpu1: gevulot_vfio_ids is set, but gevulot_boards chooses no board",
    ]


def test_the_environment_has_what_is_set_and_nothing_that_is_not() -> None:
    environment = checked(p2p_discovery=["a:1", "b:2"], cpus=8, no_execution=True).environment()
    assert environment["GEVULOT_P2P_DISCOVERY_ADDR"] == "a:1,b:2"
    assert environment["GEVULOT_CPUS"] == "8"
    assert environment["GEVULOT_NODE_NO_EXECUTION"] == "true"
    assert set(checked().environment()) == {
        "RUST_LOG",
        "GEVULOT_P2P_LISTEN_ADDR",
        "GEVULOT_JSON_RPC_LISTEN_ADDR",
        "GEVULOT_HEALTHCHECK_LISTEN_ADDR",
        "GEVULOT_HTTP_PORT",
        "GEVULOT_VSOCK_LISTEN_PORT",
    }


def test_the_environment_holds_no_secret() -> None:
    environment = checked(postgres_password="hunter2").environment()
    assert not {PASSPHRASE, "hunter2"} & set(environment.values())


def test_ports_that_only_the_node_may_reach_are_closed_outside() -> None:
    assert checked().ports_closed_outside() == (5432, 8888, 9944)
    assert checked(json_rpc_listen="0.0.0.0:9944").ports_closed_outside() == (5432, 8888)


def test_the_key_lies_outside_of_what_the_node_serves() -> None:
    node = checked(storage_directory="/srv/node")
    assert not node.key_directory.startswith(node.data_directory)
    assert (node.data_directory, node.key_directory, node.postgres_directory) == (
        "/srv/node/data",
        "/srv/node/key",
        "/srv/node/postgres",
    )
