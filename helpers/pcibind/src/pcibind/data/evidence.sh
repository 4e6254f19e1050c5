#!/bin/sh
# Print what a host uses its PCI devices for, out of /sys, /proc and /run/pcibind. Only root sees all.
#
# As many processes however many devices there are, unless one hangs. Each line begins with its kind:
#
# KIND                             WHAT                                   GUARDS
# route4 route6                    routes                                 default-route, network
# address6                         addresses of interfaces                network
# ssh sshd tcp                     SSH: logins, servers, connections      ssh
# mount mounted swap               what is mounted, here and elsewhere    disk
# boot_vga                         the firmware's display                 boot-display
# iomem screen                     memory, and the firmware's screen      framebuffer
# open node console major nvidia   open device nodes and their drivers    vfio-open, nvidia-open,
#                                                                         device-open, disk
# reserved                         memory that the firmware keeps         reserved-memory
# memory config                    ranges without address, headers        unassigned-memory,
#                                                                         no-response, framebuffer
# link                             ways through the PCI tree              virtual-functions, and those
#                                                                         of what hangs on a function
# early                            functions taken at this boot           (the record)
# unreadable                       a guard, and why it cannot tell        (that guard)

# Patterns below are of bytes.
export LC_ALL=C
s=${PCIBIND_SYS:-/sys}
p=${PCIBIND_PROC:-/proc}

# What the early script took at this boot (early.*: that of earlier versions), or pcibind.
print_taken() (
  cd "${PCIBIND_RUN:-/run/pcibind}" 2>/dev/null &&
    grep -aHs '' taken early.initramfs early.done
)

# Memory that the firmware keeps mapped for itself; of another kind it is given up.
print_reserved_memory() (
  cd "$s/kernel" 2>/dev/null && grep -Hs ' direct$' iommu_groups/*/reserved_regions
)

# Interfaces and what they are made of; block devices and what they lie on; character devices by
# number. Link targets hold the way through the PCI tree. A function that has virtual ones has a
# first: their number takes its lock, which may hang.
print_links() (
  cd "$s" 2>/dev/null && find class/net class/net/*/lower_* dev/block class/block/*/slaves/* \
    class/nvme-subsystem/*/nvme* fs/btrfs/*/devices/* dev/char bus/pci/devices/*/virtfn0 \
    -maxdepth 1 -type l \
    '(' ! -path 'dev/char/*' -o -lname '*/pci[0-9a-f]*' -o -lname '*/vfio/*' ')' \
    -printf 'link %p %l\n' 2>/dev/null
)

print_missing_links() {
  [ -d "$s/dev/char" ] || echo "unreadable device-open $s/dev/char is not there"
  [ -d "$s/class/net" ] || echo "unreadable default-route $s/class/net is not there"
  [ -d "$s/dev/block" ] && [ -d "$s/class/block" ] ||
    echo "unreadable disk $s/dev/block and $s/class/block are not there"
}

print_boot_displays() (
  cd "$s/bus/pci/devices" 2>/dev/null && grep -Hs '^[1-9]' ./*/boot_vga
)

# Routes, addresses, mounts, memory and major numbers, which `name_kinds` tells apart by their files.
print_tables() (
  cd "$p" 2>/dev/null || exit
  set -- net/route self/mountinfo swaps iomem devices
  # Without IPv6, or terminals, in the kernel these are not there.
  for f in net/ipv6_route net/if_inet6 consoles; do [ ! -e $f ] || set -- "$@" $f; done
  grep -aHs '' "$@"
  e=$?
  # A grep that fails names no file: where none fails by itself, any may have been cut short.
  [ $e -lt 2 ] || {
    b=
    for f; do cat $f >/dev/null 2>&1 || b="$b $f"; done
    [ $e = 2 ] && [ -n "$b" ] || b="$*"
    for f in $b; do
      case $f in
      net/if_inet6) g=network ;;
      net/*) g=default-route ;;
      iomem) g=framebuffer ;;
      devices) g=nvidia-open ;;
      consoles) g=device-open ;;
      *) g=disk ;;
      esac
      echo "unreadable $g $p/$f cannot be read"
    done
  }
  grep -Hs 'Device Minor' driver/nvidia/gpus/*/information
)

# The disks in other mount namespaces, each read once. Nobody but root can mount one there.
print_other_mounts() {
  set -- $(find "$p"/[0-9]*/ns -maxdepth 1 -name mnt -printf '%l %H/../mountinfo\n' \
    2>/dev/null | sort -u -k1,1)
  [ $# = 0 ] ||
    sed -nE 's/^[0-9]+ [0-9]+ ([1-9]|0:[0-9]+ .* - (btrfs|zfs|bcachefs) )/mounted &/p' "$@" 2>/dev/null
}

# The connections of servers that run as root; only root has processes of that owner.
print_ssh_servers() {
  set -- $(find "$p"/[0-9]*/exe -maxdepth 0 -user 0 \
    '(' -lname '*/sshd*' -o -lname '*/dropbear*' ')' -printf '%h/fd ' 2>/dev/null)
  [ $# = 0 ] || find "$@" -lname 'socket:*' -printf 'sshd %l\n' 2>/dev/null
}

# Whatever else this was logged in by: sudo drops SSH_CONNECTION, but the environment of the login
# shell, an ancestor, has it. Any user can forge other processes' environments, and a shell may
# outlive its connection, so that the kernel is asked for it.
print_logins() {
  set --
  i=self
  while [ $# -lt 64 ]; do
    b=
    while read -r k v; do [ "$k" = PPid: ] && b=$v && break; done 2>/dev/null <"$p/$i/status"
    case $b in "" | 0 | 1) break ;; esac
    set -- "$@" "$p/$b/environ"
    i=$b
  done
  {
    printf 'SSH_CONNECTION=%s\n' "${SSH_CONNECTION-}"
    [ $# = 0 ] || grep -azhs '^SSH_CONNECTION=' "$@" | tr '\000' '\n'
  } | sed -n 's/^SSH_CONNECTION=\(.\)/ssh \1/p'
}

# Local end, remote end and inode of what is established.
print_connections() {
  sed -n 's/^ *[0-9]*: \([0-9A-F:]*\) \([0-9A-F:]*\) 01 [^ ]* [^ ]* [^ ]* *[0-9]* *[0-9]* \([0-9]*\).*/tcp \1 \2 \3/p' \
    "$p/net/tcp" "$p/net/tcp6" 2>/dev/null
  [ -f "$p/net/tcp" ] && [ -r "$p/net/tcp" ] || echo "unreadable ssh $p/net/tcp cannot be read"
}

# The firmware's screen, also after a driver has taken it over; without sysfb, no framebuffer claims
# it at the next boot.
print_screen() {
  grep -qsE 'initcall_blacklist=[^ ]*sysfb_init|video=efifb:off' "$p/cmdline" ||
    echo screen $(od -An -v -tx1 -N62 "$s/kernel/boot_params/data" 2>/dev/null)
}

# A process that can read the links of process 1 can read those of all processes. Any user can
# choose names in a mount namespace, and a descriptor opened with O_PATH, whose link has no
# permissions, opens no device: so the number of the open device counts.
print_open_devices() {
  set -- "$p"/1/fd/*
  if readlink "$1" >/dev/null 2>&1; then
    find "$p"/[0-9]*/fd -type l -perm /600 -lname '/dev/*' ! -lname '*[![:print:]]*' \
      ! -lname /dev/null ! -lname /dev/zero ! -lname '/dev/*random' ! -lname '/dev/pts/*' \
      ! -lname '/dev/shm/*' ! -lname '/dev/input/*' ! -lname /dev/kmsg ! -lname /dev/ptmx \
      -printf 'open %p %l\n' -exec stat -L -c 'node %n %f %t:%T' '{}' + 2>/dev/null |
      while read -r k f n t; do
        d=${f%/fd/*}
        [ $k = node ] || {
          t=?
          read -r t 2>/dev/null <"$d/comm"
        }
        printf '%s %s %s %s\n' $k "${f#"$p"/}" "$n" "$t"
      done
  else
    echo "unreadable vfio-open $p/1/fd cannot be read, nor the open files of other processes"
  fi
}

# Of endpoints: the memory ranges that have no address, or are marked so (IORESOURCE_UNSET); all
# ranges of displays, since iomem hides its addresses from a process without CAP_SYS_ADMIN; and the
# standard header of the configuration space, which may hang where a device does. All headers are read at once, unless one is cut short or hangs: then one after the
# other, so that those before it are known.
print_headers() (
  cd "$s/bus/pci/devices" 2>/dev/null || exit
  {
    {
      d=
      r=
      v=
      n=0
      for c in ./*; do
        k=
        read -r k <$c/class
        case $k in
        0x06*) continue ;;
        0x03* | 0x0001*) v="$v $c/resource" ;;
        esac
        d="$d $c/config"
        r="$r $c/resource"
        n=$((n + 16))
      done
      grep -HnsE '^0x0{16} | 0x0{8}[2367abef][0-9a-f]*$' $r </dev/null
      grep -Hns '' $v </dev/null
      set -- $({ head -qc 64 $d </dev/null | od -An -v -tx4 & } | timeout 4 cat)
      a=
      [ $# = $n ] || a=apart
      for c in $d; do
        [ -z "$a" ] || set -- $(od -An -v -tx4 -N64 "$c")
        [ $# -ge 16 ] || continue
        c=${c#./}
        l="config ${c%/config}"
        n=0
        while [ $n -lt 16 ]; do
          l="$l $1"
          shift
          n=$((n + 1))
        done
        echo "$l"
      done
    } 2>/dev/null &
  } | timeout 10 cat
)

# What `grep` printed begins with the name of the file: what kind of line each is. Line 1 of
# `resource` is range 0, and the first six have registers in the header. All ranges of iomem are
# kept, one inside the other, as indentation tells: without those between, one would look to be
# inside of the last one printed. What users call their processes and mounts need not be text in any
# encoding.
name_kinds() {
  sed -E '
    s/^(taken|early\.initramfs|early\.done):/early /
    s|^iommu_groups/.*/reserved_regions:|reserved &|
    s|^\./.*/boot_vga:|boot_vga &|
    s|^\./(.*)/resource:1:|memory \1 0 |
    s|^\./(.*)/resource:2:|memory \1 1 |
    s|^\./(.*)/resource:3:|memory \1 2 |
    s|^\./(.*)/resource:4:|memory \1 3 |
    s|^\./(.*)/resource:5:|memory \1 4 |
    s|^\./(.*)/resource:6:|memory \1 5 |
    /^\.\//d
    s|^driver/nvidia/|nvidia &|
    s|^net/route:|route4 |
    s|^net/ipv6_route:|route6 |
    s|^net/if_inet6:|address6 |
    s|^self/mountinfo:|mount |
    s/^swaps:/swap /
    s/^iomem:/iomem /
    s/^consoles:.* ([0-9]+:[0-9]+)$/console \1/
    /^consoles:/d
    s/^devices:(Character| *[0-9]+ (nvidia|vfio))/major \1/
    /^devices:/d
    s/[^[:cntrl:][:print:]]/?/g'
}

{
  echo 'pcibind-evidence 1'
  print_taken
  print_reserved_memory
  print_links
  print_missing_links
  print_boot_displays
  print_tables
  print_other_mounts
  print_ssh_servers
  print_logins
  print_connections
  print_screen
  print_open_devices
  print_headers
  echo 'pcibind-evidence end'
} | name_kinds
