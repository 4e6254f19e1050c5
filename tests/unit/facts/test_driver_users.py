"""What loads or needs a graphics driver at a boot, read by the fact's own command with a systemctl of the test's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from facts.driver_users import DriverService, DriverUsage, DriverUsers
from facts.vfio_options import VfioOptions

SYSTEMCTL = r"""#!/bin/sh
case "$*" in
  list-unit-files*) printf '%s\n' 'ssh.service enabled enabled' 'getty@.service enabled enabled' \
    'nvidia-persistenced.service enabled disabled' 'limits.service enabled disabled' 'try.service enabled disabled' ;;
  *display-manager*) printf '%s\n' lightdm.service loaded ;;
  show*) case "$*" in *getty@*) exit 1 ;; esac; cat <<'END'
Id=ssh.service
Result=success
ConditionResult=yes
ExecStart={ path=/usr/sbin/sshd ; argv[]=/usr/sbin/sshd -D nvidia-password ; ignore_errors=no ; pid=1 }

Id=nvidia-persistenced.service
Result=success
ConditionResult=yes
ExecStart={ path=/usr/bin/nvidia-persistenced ; argv[]=/usr/bin/nvidia-persistenced --user x ; ignore_errors=no }

Id=limits.service
Result=exit-code
ConditionResult=yes
ExecStart={ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no ; }
ExecStart={ path=/usr/bin/nvidia-smi ; argv[]=/usr/bin/nvidia-smi -pl 300 ; ignore_errors=no ; }

Id=try.service
Result=success
ConditionResult=yes
ExecStart={ path=/usr/bin/nvidia-smi ; argv[]=/usr/bin/nvidia-smi ; ignore_errors=yes ; }
END
  ;;
  get-default) echo graphical.target ;;
esac
"""


def test_enabled_units_of_a_driver_are_read_without_their_arguments(tmp_path: Path) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", DriverUsers().command(words=("nvidia", "dcgm"))],
        capture_output=True, text=True, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    users = DriverUsers().process(done.stdout.splitlines())
    assert users.units == (
        DriverService("nvidia-persistenced.service", True, ("/usr/bin/nvidia-persistenced",)),
        DriverService("limits.service", False, ("/bin/true", "/usr/bin/nvidia-smi")),
    )
    assert users.display == "lightdm.service"


def test_modules_are_named_with_underscores_by_the_file_that_loads_them() -> None:
    lines = ["load nvidia-uvm /etc/modules-load.d/a b.conf", "load loop /etc/modules-load.d/a b.conf"]
    assert DriverUsers().process(lines) == DriverUsage({"/etc/modules-load.d/a b.conf": ("nvidia_uvm", "loop")})


def test_the_options_of_vfio_are_read_by_their_file() -> None:
    assert VfioOptions().process(["ids=1000:0072 /etc/modprobe.d/a.conf", "disable_vga=1 /etc/modprobe.d/a.conf"]) == {
        "/etc/modprobe.d/a.conf": ("ids=1000:0072", "disable_vga=1")
    }


@pytest.mark.parametrize("fact", [DriverUsers(), VfioOptions()])
def test_another_line_is_refused(fact: DriverUsers | VfioOptions) -> None:
    with pytest.raises(FactProcessError):
        fact.process(["nonsense"])
