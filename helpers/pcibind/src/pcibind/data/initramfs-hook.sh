#!/bin/sh
# Put the early override of pcibind into the initramfs, which runs a udev of its own.

case "${1:-}" in
    prereqs)
        echo ""
        exit 0
        ;;
esac

. /usr/share/initramfs-tools/hook-functions

# Nothing is chosen: an initramfs without a trace of pcibind.
[ -s /etc/pcibind/early.list ] || exit 0

for file in /etc/udev/rules.d/05-pcibind.rules /usr/local/lib/pcibind/early /etc/pcibind/early.list
do
    mkdir -p "$DESTDIR${file%/*}"
    cp -pL "$file" "$DESTDIR$file"
done
manual_add_modules vfio-pci
