"""A boot menu read as GRUB reads it, and the entry that boots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts import grub_menu
from facts.grub_menu import Menu, MenuEntry
from facts.kernel import KernelCommandLine

MENU = "/boot/grub/grub.cfg"
# As Debian's grub-mkconfig writes it, without graphics and disks.
HEADER = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="%s"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
"""
LINUX = """\
### BEGIN /etc/grub.d/10_linux ###
function gfxmode {
\tset gfxpayload="${1}"
\tif [ "${1}" = keep ]; then set vt_handoff=vt.handoff=7; else set vt_handoff=; fi
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-0a1b' {
\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
\tif [ x$feature_platform_search_hint = xy ]; then
\t  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt2  0a1b
\telse
\t  search --no-floppy --fs-uuid --set=root 0a1b
\tfi
\techo\t'Loading Linux 6.12.48 ...'
\tlinux\t/boot/vmlinuz-6.12.48 root=UUID=0a1b ro rd.lvm.lv=vg/single quiet
\tinitrd\t/boot/initrd.img-6.12.48
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-0a1b' {
\tmenuentry 'with Linux 6.12.48' $menuentry_id_option 'new' {
\t\tlinux /boot/vmlinuz-6.12.48 root=UUID=0a1b ro quiet
\t}
\tmenuentry 'with Linux 6.12.48 (recovery mode)' $menuentry_id_option 'rescue' {
\t\tlinux /boot/vmlinuz-6.12.48 root=UUID=0a1b ro single
\t}
\tmenuentry 'with Linux 6.12.41' $menuentry_id_option 'old' {
\t\tlinux /boot/vmlinuz-6.12.41 root=UUID=0a1b ro quiet
\t}
}
### END /etc/grub.d/10_linux ###
### BEGIN /etc/grub.d/40_custom ###
menuentry 'Mine' { linux /vmlinuz root=UUID=0a1b mine }
### END /etc/grub.d/40_custom ###
"""
LIVE = "live BOOT_IMAGE=/boot/vmlinuz-6.12.48 root=UUID=0a1b ro quiet"


def menu(text: str, grubenv: str = "", efi: bool = False, **files: str) -> Menu:
    texts = {MENU: text, "/boot/grub/grubenv": f"# GRUB Environment Block\n{grubenv}"}
    return grub_menu.read(texts | {f"/boot/{name}": each for name, each in files.items()}, MENU, efi)


def only(text: str, **keys: str) -> MenuEntry:
    boots = menu(text, **keys).boots
    assert boots is not None
    return boots


@pytest.mark.parametrize(
    ("default", "grubenv", "kernel", "last"),
    [
        ("0", "", "6.12.48", "quiet"),
        ("gnulinux-simple-0a1b", "", "6.12.48", "quiet"),
        ("Debian GNU/Linux", "", "6.12.48", "quiet"),
        ("1>2", "", "6.12.41", "quiet"),
        ("gnulinux-advanced-0a1b>old", "", "6.12.41", "quiet"),
        ("Advanced options>with Linux 6.12.41", "", "6.12.41", "quiet"),
        ("1>1", "", "6.12.48", "single"),
        # A submenu opens with its own first entry.
        ("1", "", "6.12.48", "quiet"),
        ("2", "", "/vmlinuz", "mine"),
        ("no such entry", "", "6.12.48", "quiet"),
        ("99", "", "6.12.48", "quiet"),
        ("", "", "6.12.48", "quiet"),
        ("${saved_entry}", "saved_entry=1>2", "6.12.41", "quiet"),
        ("${saved_entry}", "saved_entry=Mine", "/vmlinuz", "mine"),
        ("${saved_entry}", "", "6.12.48", "quiet"),
        # Once, whatever else is chosen.
        ("1>2", "next_entry=Mine", "/vmlinuz", "mine"),
    ],
)
def test_the_entry_that_boots_is_the_one_that_grub_would_choose(
    default: str, grubenv: str, kernel: str, last: str
) -> None:
    boots = only(HEADER % default + LINUX, grubenv=grubenv)
    assert boots.kernel.endswith(kernel)
    assert boots.arguments[-1] == last


def test_an_entry_says_where_its_line_stands_and_what_wrote_it() -> None:
    first, *_, last = menu(LINUX).entries
    assert (first.place, first.script) == (f"{MENU}:14", "/etc/grub.d/10_linux")
    assert (last.place, last.script) == (f"{MENU}:30", "/etc/grub.d/40_custom")


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ('linux "/BOOT/x@/vmlinuz" root=ZFS="rpool/ROOT/x" ro', ("root=ZFS=rpool/ROOT/x", "ro")),
        ("linux /vmlinuz 'a b' \"c d\" e\\ f", ("a b", "c d", "e f")),
        ("linux /vmlinuz root=$where ro", ("root=UUID=1", "ro")),
        ("linux /vmlinuz ${many} end", ("a", "b", "end")),
        ('linux /vmlinuz "${many}"', ("a b",)),
        ("linux /vmlinuz '${many}'", ("${many}",)),
        ("linux /vmlinuz a $nothing b", ("a", "b")),
        ("linux /vmlinuz a \\\n  b", ("a", "b")),
        ("linux /vmlinuz a # b", ("a",)),
        ("linux /vmlinuz a#b", ("a#b",)),
        ("linuxefi /vmlinuz a; initrd /x", ("a",)),
        ("linux\t/vmlinuz\ta", ("a",)),
        ("if [ $where = UUID=2 ]; then linux /vmlinuz a; else linux /vmlinuz b; fi", ("b",)),
        ('if [ ! -n "$nothing" -a -z "$nothing" ]; then linux /vmlinuz a; fi', ("a",)),
        ("if [ $grub_platform = efi ]; then linux /vmlinuz efi; else linux /vmlinuz pc; fi", ("pc",)),
        ("set extra=x\nlinux /vmlinuz $extra", ("x",)),
        ("pick one\nlinux /vmlinuz $picked", ("one",)),
    ],
)
def test_an_entry_has_the_arguments_that_grub_would_pass(line: str, arguments: tuple[str, ...]) -> None:
    before = 'set where=UUID=1\nmany="a b"\nfunction pick {\n  set picked=$1\n}\n'
    assert only(f"{before}menuentry 'It'\\''s' --unrestricted {{\n{line}\n}}\n").arguments == arguments


@pytest.mark.parametrize(
    ("argument", "recovery"),
    [
        ("single", True),
        ("recovery", True),
        ("systemd.unit=rescue.target", True),
        ("emergency", True),
        ("root=/dev/mapper/pve-recovery", False),
        ("rd.lvm.lv=vg/single", False),
        ("resume=/dev/single", False),
        ("recovery=no", False),
    ],
)
def test_an_entry_is_a_rescue_by_a_whole_argument_only(argument: str, recovery: bool) -> None:
    assert only(f"menuentry a {{\nlinux /vmlinuz ro {argument}\n}}\n").is_recovery is recovery


BLS = {
    "loader/entries/m-6.9.1-200.fc43.x86_64.conf": "title Old\nlinux /vmlinuz-6.9.1\noptions ro old $tuned_params\n",
    "loader/entries/m-6.17.2-300.fc43.x86_64.conf": "title New\nversion 6.17.2\nlinux /vmlinuz-6.17.2\n"
    "options $kernelopts $tuned_params\ninitrd /initramfs\n",
}


def test_bls_entries_are_sorted_by_their_versions_and_their_variables_are_filled_in() -> None:
    text = 'load_env\nset default=0\nset tuned_params="isolcpus=1 nohz=on"\ninsmod blscfg\nblscfg\n'
    entries = menu(text, "kernelopts=root=UUID=0a1b ro rhgb", **BLS)
    assert [each.title for each in entries.entries] == ["New", "Old"]
    assert entries.boots == MenuEntry(
        "New", "/boot/loader/entries/m-6.17.2-300.fc43.x86_64.conf:4", "/vmlinuz-6.17.2",
        ("root=UUID=0a1b", "ro", "rhgb", "isolcpus=1", "nohz=on"),
        "/boot/loader/entries/m-6.17.2-300.fc43.x86_64.conf",
    )  # fmt: skip


def test_a_bls_entry_is_chosen_by_its_name() -> None:
    text = 'load_env\nset default="${saved_entry}"\nblscfg\n'
    assert only(text, grubenv="saved_entry=m-6.9.1-200.fc43.x86_64", **BLS).title == "Old"


def test_a_file_that_the_menu_includes_is_read_too() -> None:
    text = "if [ -f ${config_directory}/custom.cfg ]; then\n  source ${config_directory}/custom.cfg\nfi\n"
    assert only(text, **{"grub/custom.cfg": "menuentry x {\nlinux /k a\n}\n"}).place == "/boot/grub/custom.cfg:2"


@pytest.mark.parametrize(
    "text",
    [
        "source $prefix/grub.cfg\n",
        "function f {\n  f\n}\nf\n",
        "submenu a {\n" * 30,
        "menuentry",
        "if",
        "fi\nelse\nelif\n",
        "'",
        '"$',
        "${",
        "}",
        "set\nset =\nload_env -f\n[\n",
    ],
)
def test_a_menu_that_makes_no_sense_ends(text: str) -> None:
    menu(text)


@given(st.text(alphabet="abif[]{}$'\"\\;\n #=linuxmenuentry", max_size=80))
def test_no_menu_breaks_the_reading(text: str) -> None:
    menu(text)


def lines_of_fact(text: str, *more: str) -> list[str]:
    return [LIVE, f"menu {MENU}", f"file {MENU}", *(f"|{line}" for line in text.splitlines()), *more]


def test_only_entries_of_this_system_that_are_no_rescue_are_its_command_lines() -> None:
    others = (
        "menuentry 'Other' {\nlinux /vmlinuz root=UUID=beef ro\n}\nmenuentry 'Memory' {\nlinux16 /memtest.bin\n}\n"
        "menuentry 'Windows' {\nchainloader +1\n}\n"
    )
    lines = KernelCommandLine().process(lines_of_fact(HEADER % "Other" + LINUX + others))
    assert [each[-1] for each in lines.configured] == ["quiet", "quiet", "quiet", "mine"]
    assert lines.boots is not None
    assert not lines.is_own(lines.boots)


def test_an_entry_that_update_grub_wrote_is_of_this_system_however_it_names_the_root() -> None:
    lines = KernelCommandLine().process(lines_of_fact(LINUX.replace("root=UUID=0a1b", "root=PARTUUID=9")))
    assert len(lines.configured) == 3


def test_a_root_on_zfs_is_recognised_by_its_unquoted_name() -> None:
    text = 'menuentry x {\nlinux /BOOT/x@/vmlinuz root=ZFS="rpool/ROOT/x" ro\n}\n'
    lines = KernelCommandLine().process(["live root=ZFS=rpool/ROOT/x ro", *lines_of_fact(text)[1:]])
    assert lines.configured == (("root=ZFS=rpool/ROOT/x", "ro"),)


def test_a_space_inside_of_quotes_is_part_of_an_argument() -> None:
    lines = KernelCommandLine().process(['live ro dyndbg="file iommu=off +p" quiet'])
    assert lines.live == ("ro", 'dyndbg="file iommu=off +p"', "quiet")
