"""Configuration files, pushed by pyinfra from templates that lie as the files land."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from pyinfra.api.operation import OperationMeta
from pyinfra.operations import files

TEMPLATES = Path(__file__).parent / "templates"


def template(path: str, mode: str = "644", **variables: Any) -> OperationMeta:
    """Write ``path`` on the node from the template of the same path."""
    return files.template(
        name=f"Write {path}",
        src=f"{TEMPLATES}{path}.j2",
        dest=path,
        user="root",
        group="root",
        mode=mode,
        create_remote_dir=True,
        jinja_env_kwargs={"trim_blocks": True},
        **variables,
    )


def text(path: str, content: str, mode: str = "644") -> OperationMeta:
    """Write ``path`` on the node with this content."""
    return files.put(
        name=f"Write {path}",
        src=StringIO(content),
        dest=path,
        user="root",
        group="root",
        mode=mode,
        create_remote_dir=True,
    )
