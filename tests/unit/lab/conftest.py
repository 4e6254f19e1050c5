"""Parts of the lab without machines."""

from __future__ import annotations

import pytest

from tests.lab import journal


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they do is no progress of the run."""
    monkeypatch.delenv(journal.VARIABLE, raising=False)
