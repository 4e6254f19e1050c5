#!/bin/sh
# Set driver_override to vfio-pci for the functions of the boards in early.list, before any driver
# is loaded.
#
# A board is known by its way through the bridges and by what all its functions are; never by its
# address, which another device may have after a card was added. A board that lacks a function, or
# has another or one more, is left alone: the rule of `compare` in model/record.py. Lines: PATH VENDOR
# DEVICE SUBVENDOR SUBDEVICE CLASS. Runs in an initramfs: builtins of a POSIX shell, and mkdir.
#
# Without an argument this is the first PCI event of a boot. With one it is a later event, ACTION at
# DEVPATH: the functions of its board that have no driver yet get their overrides, and
# pcibind-hotplug.path sees the file that is left in events/.

sys=${PCIBIND_SYS:-/sys}
proc=${PCIBIND_PROC:-/proc}
list=${PCIBIND_LIST:-/etc/pcibind/early.list}
run=${PCIBIND_RUN:-/run/pcibind}

line=''
read -r line 2>/dev/null <"$proc/cmdline"
# The kernel and systemd know a word in quotes as well.
case " $line " in *' pcibind=off '* | *' "pcibind=off" '* | *' pcibind="off" '*) exit 0 ;; esac

# An initramfs may carry an older list: that it was done there does not count here.
done=$run/early.done
if [ -e /etc/initrd-release ] || [ -e /conf/initramfs.conf ]; then done=$run/early.initramfs; fi

# After the first run of pcibind, which makes the lock, this is no boot any more: the list, or the
# rule, came while the host ran, and its drivers may be using the boards.
[ -z "$1" ] && { [ -e "$done" ] || [ -e "$run/lock" ]; } && exit 0

# Sets path and board: .../pci0000:00/0000:00:01.0/0000:01:00.2 becomes 0000:00/01.0/00.2 of
# 0000:00/01.0/00. The last root counts.
place() {
    rest=${1##*/pci}
    path=${rest%%/*}
    rest=${rest#*/}/
    while [ -n "$rest" ]; do
        slot=${rest%%/*}
        path=$path/${slot##*:}
        rest=${rest#*/}
    done
    board=${path%.*}
}

wanted='|' boards='|'
while read -r line; do
    path=${line%% *}
    wanted="$wanted$line|" boards="$boards${path%.*}|"
done <"$list" || exit 1

if [ -n "$1" ]; then
    place "$DEVPATH"
    case $boards in *"|$board|"*) boards="|$board|" ;; *) exit 0 ;; esac
fi

functions='' present='|' different='|'
for device in "$sys"/bus/pci/devices/*; do
    [ "${ACTION:-add}" = add ] || break
    cd -P "$device" 2>/dev/null || continue
    place "$PWD"
    case $boards in *"|$board|"*) ;; *) continue ;; esac

    vendor='' model='' subvendor='' submodel='' class=''
    read -r vendor 2>/dev/null <vendor
    read -r model 2>/dev/null <device
    read -r subvendor 2>/dev/null <subsystem_vendor
    read -r submodel 2>/dev/null <subsystem_device
    read -r class 2>/dev/null <class
    # Bridges belong to no board. What lacks one of these is being removed.
    [ -n "$vendor" ] && [ -n "$model" ] && [ -n "$class" ] || continue
    case $class in 0x06*) continue ;; esac

    line="$path $vendor $model ${subvendor:-0x0000} ${submodel:-0x0000} $class"
    case $wanted in
        *"|$line|"*) present="$present$line|" functions="$functions ${device##*/}=$board" ;;
        *) different="$different$board|" ;;
    esac
done
while read -r line; do
    path=${line%% *}
    case $present in *"|$line|"*) ;; *) different="$different${path%.*}|" ;; esac
done <"$list"

taken=''
for function in $functions; do
    address=${function%%=*}
    case $different in *"|${function#*=}|"*) continue ;; esac
    # One that a driver has by now is rebound by pcibind, which asks first whether it is in use.
    [ -n "$1" ] && [ -e "$sys/bus/pci/devices/$address/driver" ] && continue
    taken="$taken $address"
done

# Before the first write, so that none is lost: by these addresses pcibind knows whose overrides are
# not the host's own.
mkdir -p "$run" || exit 1
if [ -n "$taken" ]; then echo "$taken" >>"$run/taken" || exit 1; fi

failed=0
for address in $taken; do
    echo vfio-pci 2>/dev/null >"$sys/bus/pci/devices/$address/driver_override" || failed=1
done

if [ -n "$1" ]; then
    mkdir -p "$run/events" && : >"$run/events/$ACTION.${DEVPATH##*/}"
    exit
fi
# Events that are handled at the same time may all come this far; each has done the whole work.
[ "$failed" = 0 ] && echo "$taken" >"$done"
