"""The host data of the lab's machines."""

from __future__ import annotations

from typing import cast

import pytest

from tests.lab.inventory import data
from tests.lab.machine import Machine, MachineError


@pytest.mark.parametrize("release", ["17", "", "sixteen"])
def test_a_release_of_postgres_that_the_lab_lacks_is_named(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEVULOT_LAB_POSTGRES", release)
    with pytest.raises(MachineError, match=f"GEVULOT_LAB_POSTGRES is '{release}'; expected 15 or 16"):
        # Refused before anything is asked of the machine.
        data(cast(Machine, None))
