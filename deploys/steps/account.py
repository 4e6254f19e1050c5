"""The account and the storage."""

from __future__ import annotations

from pyinfra import host
from pyinfra.facts.server import Users
from pyinfra.operations import files, server

from deploys.operations.planning import step
from deploys.settings import Settings


@step("Make the account and the storage")
def make_account(settings: Settings) -> None:
    server.group(name="Add the group gevulot", group="gevulot", system=True)
    if "gevulot" in host.get_fact(Users):
        # Perhaps an account that people log in with: its home and its shell are theirs.
        server.user(name="Add the user gevulot to kvm", user="gevulot", groups=["kvm"], append=True, ensure_home=False)
    else:
        server.user(
            name="Add the user gevulot",
            user="gevulot",
            group="gevulot",
            groups=["kvm"],
            append=True,
            system=True,
            home=settings.storage_directory,
            ensure_home=False,
            create_home=False,
            shell="/usr/sbin/nologin",
        )
    files.directory(
        name=f"Make {settings.storage_directory}",
        path=settings.storage_directory, user="root", group="gevulot", mode="750",
    )  # fmt: skip
    files.directory(
        name=f"Make {settings.data_directory}",
        path=settings.data_directory, user="root", group="gevulot", mode="2770",
    )  # fmt: skip
