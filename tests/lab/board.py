"""A board: a card of several functions, each a device model of QEMU, and its arguments of QEMU."""

from collections.abc import Mapping
from dataclasses import dataclass

AUDIO = "silence"
"""QEMU's name for the sound that goes nowhere; every machine has it."""

CARD_DISK = "card"
"""QEMU's name for the small read-only disk that a board's disk function shows."""


class BoardError(ValueError):
    """No board of that name."""


@dataclass(frozen=True)
class Board:
    """A card: one to eight functions, function 0 first.

    Each is a QEMU device model, with properties if any (`nvme,serial=1`), and after each `+`
    a device on that function's own bus (`intel-hda+hda-output`).
    """

    functions: tuple[str, ...]


GPU = Board(("bochs-display", "intel-hda", "qemu-xhci", "pci-serial"))
"""Display, audio, USB (modules in Debian's kernel), and a driver that is built into it."""

GPU_OF_THREE = Board(("bochs-display", "intel-hda", "qemu-xhci"))
"""The board of the install guide: display, audio and USB, all with modules for drivers."""

DRIVERLESS = Board(("bochs-display", "intel-hda", "qemu-xhci", "pci-testdev"))
"""Function 3 has no driver in any kernel."""

OTHER_MODEL = Board(("virtio-gpu-pci", "intel-hda", "qemu-xhci", "pci-serial"))
"""The GPU's shape, but a display of another vendor and model (1af4:1050). Must be there at power-on."""

OTHER_AUDIO = Board(("bochs-display", "ich9-intel-hda", "qemu-xhci", "pci-serial"))
"""The GPU's model by its display; function 1 is another device (8086:293e, not 8086:2668)."""

SOUND = Board(("bochs-display", f"intel-hda+hda-output,audiodev={AUDIO}", "qemu-xhci"))
"""Its audio function has a codec, hence streams (/dev/snd/pcm…). Must be there at power-on.

Without a codec there is still a sound card with /dev/snd/controlC…, on every board that has audio.
"""

DISPLAY_ONLY = Board(("bochs-display",))
"""One function."""

BOOT_DISPLAY = Board(("VGA", "intel-hda", "qemu-xhci", "pci-serial"))
"""The display that the firmware uses (`boot_vga`). Must be there at power-on."""

VIRTUAL_FUNCTIONS = Board(("igb",))
"""A network card (8086:10c9) that offers seven virtual functions. QEMU's nvme does too, but cannot be saved."""

BOARDS: Mapping[str, Board] = {
    "gpu": GPU,
    "gpu-of-three": GPU_OF_THREE,
    "driverless": DRIVERLESS,
    "other-audio": OTHER_AUDIO,
    "display-only": DISPLAY_ONLY,
}
"""The boards that can be plugged into a running machine, by name."""


def named(name: str) -> Board:
    """Return the pluggable board of that name; BoardError lists the names there are."""
    try:
        return BOARDS[name]
    except KeyError:
        raise BoardError(f"no board {name!r}: there are {', '.join(BOARDS)}") from None


def pluggable(board: Board) -> Board:
    """Return the board in the form in which it can be put in and taken out, again and again.

    QEMU never frees bochs-display's memory and aborts at the second one in the same place;
    secondary-vga is the same to its driver and to programs that read its identity (1234:1111).
    """
    return Board(tuple(each.replace("bochs-display", "secondary-vga") for each in board.functions))


def devices(board: Board, bus: str) -> tuple[tuple[str, ...], ...]:
    """Return for each function what QEMU's `-device` and `device_add` get, its own bus last.

    `bus` is QEMU's name of the bus behind the board's port.
    """
    # Said by every function, as real ones do: by it the kernel knows, when a board is plugged in, what shares a group.
    several = ",multifunction=on" if len(board.functions) > 1 else ""
    return tuple(
        function(spec, f"{bus}.{number}", f"bus={bus},addr=0.{number}{several}")
        for number, spec in enumerate(board.functions)
    )


def function(spec: str, name: str, place: str) -> tuple[str, ...]:
    """Return one function's devices: itself at `place`, named `name`, then those on its own bus."""
    first, *inner = spec.split("+")
    return (f"{first},id={name},{place}", *(f"{each},bus={name}.0" for each in inner))
