"""Documents of schema `gevulot-fleet/1`, made up: nothing here was observed, but the DGX station's list of devices.

The same call gives the same document.
"""

from __future__ import annotations

import random

from tests.fleet.machines import DGX_STATION, dgx_station, lab
from tests.fleet.parts import GENERATED_SECONDS, Json, document, host, unknown
from tests.fleet.server import eight_gpu_server, eight_gpu_server_in_order, workstation

__all__ = [
    "DGX_STATION",
    "MARKUP",
    "Json",
    "dgx_station",
    "document",
    "eight_gpu_server",
    "fleet",
    "host",
    "hostile",
    "lab",
    "unknown",
]

MARKUP = '</script><img src=x onerror="document.title=1"><!--&amp;\u2028'
"""A name that would be markup if anything took it for that."""


def fleet(count: int = 100, seed: int = 22) -> Json:
    """A fleet of hosts in all severities, most of them ok: desktop machines, and some servers of eight GPUs."""
    chance = random.Random(seed)
    return document(*(_host(chance, number) for number in range(1, count + 1)))


def _host(chance: random.Random, number: int) -> Json:
    name = f"gpu-{number:02d}.{chance.choice(('ams', 'fra', 'hel'))}.example.net"
    # The first ones have each severity, so that small fleets have them too.
    severity = (
        ("ok", "attention", "wrong", "down")[number - 1]
        if number <= 4
        else chance.choices(("ok", "attention", "wrong", "down"), (80, 11, 6, 3))[0]
    )
    if severity == "down":
        return unknown(name, "down", [chance.choice(_DOWN)])
    made = eight_gpu_server_in_order(name) if chance.random() < 0.15 else workstation(name)
    made["storage"]["free_kib"] = chance.randrange(150_000_000, 1_900_000_000)
    made["node"]["since"] = GENERATED_SECONDS - chance.randrange(3_600, 60 * 86_400)
    made["key"]["public"] = f"04{chance.getrandbits(88):022x}"
    made["verified"] = f"2026-11-22T{chance.randrange(2, 22):02d}:{chance.randrange(60):02d}:00Z"
    if severity != "ok":
        some = chance.sample(_TROUBLES[severity], k=chance.choice((1, 1, 1, 2)))
        for trouble in _TROUBLES[severity][:2] if number <= 4 else some:
            trouble(made)
    made["severity"] = severity
    return made


_DOWN = (
    "SSH: connection timed out after 10 s",
    "SSH: no route to host",
    "SSH: host key is not the one that is known",
)


def _disk_is_nearly_full(made: Json) -> None:
    made["storage"]["free_kib"] = 41_000_000
    made["reasons"].append("/var/lib/gevulot has 39 GiB free of 1.9 TiB")


def _reboot_is_pending(made: Json) -> None:
    made["kernel_arguments"]["live"] = False
    made["reboot_pending"] = ["the kernel does not run with intel_iommu=on iommu=pt"]
    made["reasons"].append("a reboot is pending: the kernel does not run with intel_iommu=on iommu=pt")


def _is_drifted(made: Json) -> None:
    made["drift"] = [
        "/etc/modprobe.d/gpu-host-boards.conf is not as it was deployed",
        "gevulot-node.container was changed by hand",
    ]
    made["reasons"].append("2 files are not as they were deployed")


def _board_is_absent(made: Json) -> None:
    gone = made["boards"]["list"][-1]
    gone.update(
        verdict="absent",
        state="unbound",
        viable=None,
        groups=[],
        address=None,
        model=None,
        detail=f"nothing is plugged in at {gone['path']}; it was {gone['model_name']}",
    )
    made["boards"]["bound"] -= 1
    functions = made["topology"]["functions"]
    made["topology"]["functions"] = [each for each in functions if each["path"].rpartition(".")[0] != gone["path"]]
    made["reasons"].append(f"board {gone['name']} is absent")


def _board_is_the_hosts(made: Json) -> None:
    lost = made["boards"]["list"][0]
    lost.update(
        state="failed",
        viable=False,
        detail=f"{lost['address']} has the driver nouveau, expected vfio-pci; run pcibind apply",
    )
    made["boards"]["bound"] -= 1
    for each in made["topology"]["functions"]:
        if each["address"] == lost["address"]:
            each["driver"] = "nouveau"
    made["reasons"].append(f"board {lost['name']} ({lost['address']}) has the driver nouveau, expected vfio-pci")


def _node_is_failed(made: Json) -> None:
    made["node"] = {"unit": "failed", "since": None}
    made["health"] = None
    made["activity"] = None
    made["reasons"].append("gevulot-node.service is failed")


def _database_is_away(made: Json) -> None:
    made["database"] = {"kind": "external", "reachable": False, "release": None, "missing": []}
    made["migration"] = None
    made["reasons"].append("the database at db.example.net cannot be reached")


def _key_is_changed(made: Json) -> None:
    made["key"]["state"] = "changed"
    made["reasons"].append("the node's key is not the one that is recorded")


_TROUBLES = {
    "attention": (_disk_is_nearly_full, _reboot_is_pending, _is_drifted),
    "wrong": (_board_is_absent, _board_is_the_hosts, _node_is_failed, _database_is_away, _key_is_changed),
}


def hostile() -> Json:
    """A fleet whose every name and sentence is markup."""
    made = lab(f"a{MARKUP}", severity="wrong", reasons=[MARKUP], lint=[MARKUP], drift=[MARKUP])
    for each in made["topology"]["functions"]:
        each.update(device_name=MARKUP, driver=MARKUP, slot=MARKUP)
    for each in made["boards"]["list"]:
        each.update(name=MARKUP, model_name=MARKUP, detail=MARKUP)
    made["platform"]["name"] = MARKUP
    return document(made, unknown(f"b{MARKUP}", "down", [MARKUP]))
