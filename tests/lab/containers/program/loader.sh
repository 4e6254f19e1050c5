#!/bin/sh
# Makes GRUB's core image for a program's disk, and lists the libraries of socat. $1: the directory of the unpacked
# packages.
set -eu
cat >"$1/boot/loader.cfg" <<'END'
linux (hd0,msdos1)/vmlinuz console=ttyS0 quiet panic=-1
initrd (hd0,msdos1)/initrd.img
boot
END
chroot "$1" grub-mkimage --format=i386-pc --output=/boot/core.img --prefix='(hd0,msdos1)/' \
    --config=/boot/loader.cfg biosdisk part_msdos tar linux boot
chroot "$1" /lib64/ld-linux-x86-64.so.2 --list /usr/bin/socat | grep -o '/[^ ]*' >"$1/boot/libraries"
