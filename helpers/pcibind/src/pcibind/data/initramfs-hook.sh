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

# Boards that are not on record would be taken, and nobody would know what they were before.
while read -r path _; do
    if ! grep -qsF "\"path\": \"${path%.*}\"" /var/lib/pcibind/record.json; then
        echo "W: pcibind: board ${path%.*} is not on record; left out. Run pcibind status" >&2
        exit 0
    fi
done </etc/pcibind/early.list

for file in /etc/udev/rules.d/05-pcibind.rules /usr/local/lib/pcibind/early /etc/pcibind/early.list
do
    mkdir -p "$DESTDIR${file%/*}"
    cp -pL "$file" "$DESTDIR$file"
done
manual_add_modules vfio-pci
