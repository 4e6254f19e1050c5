"""The node's stand-in keeps the real node's contract where it is decided without a host."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies
from hypothesis import settings as effort

from tests.lab.containers.node.stand_in import (
    cli,
    database,
    devices,
    keys,
    log,
    services,
    settings,
)

pytestmark = pytest.mark.commands

# Scalars and their points as "Test vectors for secp256k1" publishes them for k = 1 and k = 2.
ONE = "04" + f"{keys.BASE[0]:064x}{keys.BASE[1]:064x}"
TWO = (
    "04c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
    "1ae168fea63dc339a3c58419466ceaeef7f632653266d0e1236431a950cfe52a"
)


def test_public_keys_are_secp256k1_s() -> None:
    assert keys.public_key((1).to_bytes(32, "big")) == ONE
    assert keys.public_key((2).to_bytes(32, "big")) == TWO


def test_the_negative_scalar_has_the_mirrored_point() -> None:
    mirrored = keys.public_key((keys.ORDER - 1).to_bytes(32, "big"))
    assert mirrored[:66] == ONE[:66]
    assert int(mirrored[66:], 16) == keys.PRIME - keys.BASE[1]


@effort(max_examples=10, deadline=None)
@given(strategies.integers(1, keys.ORDER - 1))
def test_every_scalar_gives_a_point_of_the_curve(scalar: int) -> None:
    assert keys.is_public_key(keys.public_key(scalar.to_bytes(32, "big")))


@pytest.mark.parametrize("secret", [b"", bytes(32), b"\xff" * 32, b"a" * 31, b"a" * 64])
def test_what_is_no_scalar_is_refused(secret: bytes) -> None:
    with pytest.raises(keys.KeyFileError, match="invalid node key"):
        keys.public_key(secret)


@pytest.mark.parametrize("text", ["", "04" + "0" * 128, ONE[:-1], ONE[:-1] + "0", "05" + ONE[2:]])
def test_what_is_no_point_is_no_public_key(text: str) -> None:
    assert not keys.is_public_key(text)


def test_generating_makes_32_bytes_once_and_prints_the_public_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "node.key"
    old = os.umask(0o077)
    try:
        assert cli.main(["generate", "node-key", "--key-file", str(key)]) == 0
    finally:
        os.umask(old)
    shown = capsys.readouterr()
    assert "deprecated" in shown.err
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    content = key.read_bytes()
    assert len(content) == 32
    assert shown.out.strip() == keys.public_key(content)
    assert cli.main(["generate", "node-key", "--key-file", str(key)]) == 1
    assert key.read_bytes() == content
    assert cli.main(["show", "public-key", "--key-file", str(key)]) == 0
    assert capsys.readouterr().out.strip() == keys.public_key(content)


def test_a_key_is_read_out_of_a_fifo(tmp_path: Path) -> None:
    fifo, content = tmp_path / "node.key", (1).to_bytes(32, "big")
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    assert keys.read(fifo) == content
    writer.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_node_handles_no_signal_and_reads_its_key_before_all_else(tmp_path: Path, number: signal.Signals) -> None:
    fifo = tmp_path / "node.key"
    os.mkfifo(fifo)
    program = "import sys; from tests.lab.containers.node.stand_in.cli import main; sys.exit(main(['run']))"
    node = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"GEVULOT_NODE_KEY_FILE": str(fifo), "GEVULOT_DB_URL": "postgres://a:b@127.0.0.1:1/c"},
    )  # fmt: skip
    try:
        # Nobody gives it its key, so it comes to nothing else.
        with pytest.raises(subprocess.TimeoutExpired):
            node.communicate(timeout=2)
        node.send_signal(number)
        node.communicate(timeout=20)
    finally:
        node.kill()
    assert node.returncode == -number


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a file").write_bytes(b"inside")
    (tmp_path / "key").write_bytes(b"outside")
    with services.Server(("127.0.0.1", 0), services.Files) as server:
        server.state = services.State(settings.read({}, {"GEVULOT_DATA_DIRECTORY": str(tmp_path / "data")}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()


def get(server: tuple[str, int], target: str) -> tuple[int, bytes]:
    """Status and body of the answer to a request whose target is sent as it is."""
    with socket.create_connection(server, timeout=20) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/a%20file", b"inside"),
        ("/a%20file?query", b"inside"),
        ("/../key", b"outside"),
        ("/%2e%2e/key", b"outside"),
        ("/..%2Fkey", b"outside"),
        ("/{root}/key", b"outside"),
        ("/%2F{root}/key", b"outside"),
        ("/{root}/data/../key", b"outside"),
        ("//proc/self/root{root}/key", b"outside"),
        ("/../../../../../../../../../../..{root}/key", b"outside"),
    ],
)
def test_the_file_server_gives_every_file_as_the_real_one(
    file_server: tuple[str, int], tmp_path: Path, target: str, status: bytes
) -> None:
    assert get(file_server, target.format(root=tmp_path)) == (200, status)


def test_the_file_server_gives_files_of_proc_whose_size_is_0(file_server: tuple[str, int]) -> None:
    assert get(file_server, "//proc/self/environ") == (200, Path("/proc/self/environ").read_bytes())


@pytest.mark.parametrize("target", ["/", "/absent", "//absent", "//proc", "/../data", "/a%00file"])
def test_what_is_absent_or_a_directory_is_not_found(file_server: tuple[str, int], target: str) -> None:
    assert get(file_server, target)[0] == 404


def test_generating_into_a_missing_directory_fails(tmp_path: Path) -> None:
    assert cli.main(["generate", "node-key", "--key-file", str(tmp_path / "no/node.key")]) == 1


def test_defaults_are_the_real_node_s() -> None:
    chosen = settings.read({}, {})
    assert chosen.json_rpc_listen_addr == ("127.0.0.1", 9944)
    assert chosen.p2p_listen_addr == ("127.0.0.1", 9999)
    assert chosen.healthcheck_listen_addr == ("127.0.0.1", 8888)
    assert (chosen.http_download_port, chosen.vsock_listen_port) == (9995, 8080)
    assert chosen.node_key_file == Path("/var/lib/gevulot/node.key")
    assert chosen.gpu_devices is None
    assert chosen.p2p_discovery_addrs == ()
    assert not chosen.no_execution


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", ("",)),
        ("0000:01:00.0", ("0000:01:00.0",)),
        ("0000:01:00.0, 0000:02:00.0", ("0000:01:00.0", " 0000:02:00.0")),
    ],
)
def test_the_gpu_list_is_split_without_trimming(text: str, entries: tuple[str, ...]) -> None:
    assert settings.read({}, {"GEVULOT_GPU_DEVICES": text}).gpu_devices == entries


def test_a_flag_goes_before_the_environment() -> None:
    environment = {"GEVULOT_HTTP_PORT": "1"}
    assert settings.read({"http_download_port": "2"}, environment).http_download_port == 2


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GEVULOT_P2P_LISTEN_ADDR", "localhost:9999"),
        ("GEVULOT_P2P_LISTEN_ADDR", "::1:9999"),
        ("GEVULOT_JSON_RPC_LISTEN_ADDR", "127.0.0.1"),
        ("GEVULOT_HEALTHCHECK_LISTEN_ADDR", ""),
        ("GEVULOT_HTTP_PORT", "70000"),
        ("GEVULOT_CPUS", "-1"),
        ("GEVULOT_NODE_NO_EXECUTION", "1"),
    ],
)
def test_a_value_of_the_wrong_form_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(settings.SettingError, match=variable):
        settings.read({}, {variable: text})


def test_settings_do_not_show_their_secrets() -> None:
    chosen = settings.read({}, {"GEVULOT_PSK_PASSPHRASE": "hush", "GEVULOT_DB_URL": "postgres://u:hush@h/d"})
    assert "hush" not in repr(chosen)


def test_a_database_url_is_percent_decoded() -> None:
    parameters = database.parameters("postgres://gevulot:p%20w%25@db.example:5433/gevulot")
    assert parameters["password"] == "p w%"
    assert (parameters["host"], parameters["port"], parameters["dbname"]) == ("db.example", "5433", "gevulot")


@pytest.mark.parametrize(
    "url",
    [
        "postgres://gevulot@localhost:5433/gevulot?host=/run/postgresql",
        "postgres://gevulot@%2Frun%2Fpostgresql:5433/gevulot",
    ],
)
def test_a_database_url_may_name_the_directory_of_a_socket(url: str) -> None:
    parameters = database.parameters(url)
    assert (parameters["host"], parameters["port"], parameters["user"], parameters["dbname"]) == (
        "/run/postgresql",
        "5433",
        "gevulot",
        "gevulot",
    )
    assert "password" not in parameters


def test_a_directory_keeps_its_capitals() -> None:
    assert database.parameters("postgres://a@%2Fsrv%2FPG/d")["host"] == "/srv/PG"


@pytest.mark.parametrize("url", ["postgres://u:hush@h:5x/d", "mysql://u:hush@h/d", "hush"])
def test_a_malformed_database_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(database.DatabaseError) as caught:
        database.parameters(url)
    assert "hush" not in str(caught.value)


def test_the_migrations_are_in_order_and_leave_the_twelve_tables() -> None:
    versions = [version for version, _, _ in database.MIGRATIONS]
    assert versions == sorted(set(versions))
    assert len(database.TABLES) == 12 + 1


@pytest.mark.parametrize(
    ("directives", "level"),
    [
        ("", "info"),
        ("error", "error"),
        ("warn,gevulot=debug,sqlx=error", "debug"),
        ("sqlx=trace", "info"),
        ("nonsense", "info"),
        ("off", "off"),
    ],
)
def test_rust_log_decides_the_level(directives: str, level: str) -> None:
    assert log.LEVELS[log.threshold(directives)] == level


def test_lines_are_coloured_as_the_real_node_s(capsys: pytest.CaptureFixture[str]) -> None:
    log.log("error", "the reason")
    (line,) = capsys.readouterr().out.splitlines()
    assert "\x1b[31mERROR\x1b[0m \x1b[2mgevulot\x1b[0m\x1b[2m:\x1b[0m the reason" in line


def test_a_node_quits_when_no_discovery_address_answers_and_not_without_any() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    asked = settings.read({}, {"GEVULOT_P2P_DISCOVERY_ADDR": f"host.invalid:1,{nobody}"})
    with pytest.raises(services.NoPeerError, match=r"^Failed to connect to any P2P node\. Quitting\.$"):
        services.join_peers(asked)
    assert services.join_peers(settings.read({}, {})) == []


def test_without_vsock_the_node_panics(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refused)
    with pytest.raises(cli.VsockError, match=r'^Os \{ code: 1, kind: PermissionDenied, message: "Operation not perm'):
        cli.vsock_listener(8080)


def test_the_iommu_group_is_read_for_an_address_with_or_without_a_domain(tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:0a:00.1"
    device.mkdir(parents=True)
    (device / "iommu_group").symlink_to("../../../../kernel/iommu_groups/59")
    assert devices.iommu_group("0000:0A:00.1", tmp_path) == "59"
    assert devices.iommu_group("0a:00.1", tmp_path) == "59"


@pytest.mark.parametrize("entry", ["", " 0000:0a:00.1", "0000:0a:00", "0000:0a:00.1\n", "gpu"])
def test_what_is_no_pci_address_is_refused(entry: str, tmp_path: Path) -> None:
    with pytest.raises(devices.DeviceError, match="no PCI address"):
        devices.iommu_group(entry, tmp_path)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(devices.DeviceError, match="no such device"):
        devices.iommu_group("0000:0a:00.1", tmp_path)


@pytest.mark.parametrize(("other", "same"), [("secret", True), ('"secret"', False), ("", False)])
def test_peers_agree_only_with_the_same_bytes_of_the_key(other: str, same: bool) -> None:
    ours, theirs = socket.socketpair()
    outcome: list[bool] = []
    with ours, theirs:
        peer = threading.Thread(target=lambda: outcome.append(services.shake_hands(theirs, other)))
        peer.start()
        assert services.shake_hands(ours, "secret") is same
        peer.join()
    assert outcome == [same]
