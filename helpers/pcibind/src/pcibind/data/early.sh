#!/bin/sh
# Set driver_override to vfio-pci for every function in early.list, before any driver is loaded.
#
# A function is known by its way through the bridges and by what it is; never by its address,
# which another device may have after a card was added. Lines: PATH VENDOR DEVICE SUBVENDOR
# SUBDEVICE CLASS. Runs in an initramfs: builtins of a POSIX shell, and mkdir.

sys=${PCIBIND_SYS:-/sys}
list=${PCIBIND_LIST:-/etc/pcibind/early.list}
run=${PCIBIND_RUN:-/run/pcibind}

# An initramfs may carry an older list: that it was done there does not count here.
done=$run/early.done
if [ -e /etc/initrd-release ] || [ -e /conf/initramfs.conf ]; then done=$run/early.initramfs; fi

[ -e "$done" ] && exit 0

wanted='|'
while read -r line; do
    wanted="$wanted$line|"
done <"$list" || exit 1

failed=0
taken=''
for device in "$sys"/bus/pci/devices/*; do
    cd -P "$device" 2>/dev/null || continue

    # .../pci0000:00/0000:00:01.0/0000:01:00.2 becomes 0000:00/01.0/00.2. The last root counts.
    rest=${PWD##*/pci}
    path=${rest%%/*}
    rest=${rest#*/}/
    while [ -n "$rest" ]; do
        slot=${rest%%/*}
        path=$path/${slot##*:}
        rest=${rest#*/}
    done

    vendor='' model='' subvendor='' submodel='' class=''
    read -r vendor 2>/dev/null <vendor
    read -r model 2>/dev/null <device
    read -r subvendor 2>/dev/null <subsystem_vendor
    read -r submodel 2>/dev/null <subsystem_device
    read -r class 2>/dev/null <class

    case $wanted in
        *"|$path $vendor $model $subvendor $submodel $class|"*)
            taken="$taken ${device##*/}"
            echo vfio-pci 2>/dev/null >driver_override || failed=1
            ;;
    esac
done

# By these addresses pcibind knows later whose overrides are not the host's own.
# Events that are handled at the same time may all come this far; each has done the whole work.
[ "$failed" = 0 ] || exit 1
cd / || exit 1
mkdir -p "$run" && echo "$taken" >"$done"
