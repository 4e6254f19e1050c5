#!/bin/sh
# Turns the unpacked packages into a root filesystem that runs the two stand-ins, and takes out
# what they never use. No maintainer script ran (mmdebstrap's variant "extract"), so what those
# would have made and the stand-ins need is made here. $1: the directory of the root filesystem.
set -eu
root=$1

cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
postgres:x:999:999::/var/lib/postgresql:/bin/bash
END
cat >"$root/etc/group" <<'END'
root:x:0:
tty:x:5:
kvm:x:104:
nogroup:x:65534:
postgres:x:999:
END
echo 'passwd: files
group: files
hosts: files dns' >"$root/etc/nsswitch.conf"

# The official image's server listens everywhere unless it is told otherwise.
sed -i "s/^#listen_addresses = .*/listen_addresses = '*'/" \
    "$root/usr/share/postgresql/15/postgresql.conf.sample"
# Debian's wrappers are Perl and look for Debian's clusters: the plain programs take their place.
for program in psql pg_isready pg_dump pg_dumpall pg_restore; do
    ln -sf ../lib/postgresql/15/bin/$program "$root/usr/bin/$program"
done
mkdir -p "$root/docker-entrypoint-initdb.d" "$root/var/lib/postgresql/data" "$root/var/lib/gevulot"
rm -rf "$root/var/run" "$root/var/lock"
ln -s ../run "$root/var/run"
install -d -m 3775 -o 999 -g 999 "$root/run/postgresql"
chown 999:999 "$root/var/lib/postgresql" "$root/var/lib/postgresql/data"
chmod 1777 "$root/var/lib/postgresql/data"

cd "$root"
rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/i18n usr/share/lintian \
    usr/share/perl usr/share/perl5 usr/share/icons usr/share/applications usr/share/iso-codes \
    usr/share/X11 usr/share/xml usr/share/bash-completion usr/share/bug usr/share/common-licenses \
    usr/share/postgresql-common usr/share/zoneinfo/right usr/share/zoneinfo/posix \
    usr/lib/qemu usr/lib/systemd usr/lib/udev etc/init.d etc/rc?.d etc/cron.daily \
    var/lib/apt var/lib/dpkg var/cache var/log/apt

# Firmware: the node's q35 machine has no display and no kernel argument, but QEMU's default network
# card. It needs the BIOS, the option ROM kvmvapic, that card's ROM and nothing else.
find usr/share/qemu -mindepth 1 -maxdepth 1 \! -name kvmvapic.bin \! -name 'linuxboot*' -exec rm -rf {} +
find usr/lib/ipxe \! -type d \! -name 'efi-e1000e.rom' -delete
find usr/share/seabios -type f \! -name 'bios*.bin' -delete
rm -f usr/bin/qemu-system-i386 usr/libexec/qemu-system-i386 usr/bin/qemu-system-x86_64-microvm \
    usr/bin/qemu-storage-daemon usr/bin/qemu-img usr/bin/qemu-io usr/bin/qemu-nbd
find usr/lib/x86_64-linux-gnu/qemu -type f \! -name 'accel-tcg-x86_64.so' -delete

# Just-in-time compilation of queries: 160 MB that the server does without when it is not there.
rm -rf usr/lib/postgresql/15/lib/bitcode usr/lib/postgresql/15/lib/llvmjit* \
    usr/lib/x86_64-linux-gnu/libLLVM* usr/lib/llvm* usr/lib/x86_64-linux-gnu/libz3.so*
# Perl came with Debian's Postgres wrappers, the rest with QEMU's displays and sound.
rm -rf usr/bin/perl* usr/lib/x86_64-linux-gnu/perl* usr/lib/x86_64-linux-gnu/libperl* \
    usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/gstreamer-1.0 \
    usr/lib/x86_64-linux-gnu/libspice* usr/lib/x86_64-linux-gnu/libgst* usr/lib/x86_64-linux-gnu/libasound* \
    usr/lib/x86_64-linux-gnu/libepoxy* usr/lib/x86_64-linux-gnu/libsqlite3*
(cd usr/lib/python3.11 && rm -rf ensurepip idlelib lib2to3 pydoc_data test tkinter unittest distutils)

chroot "$root" /sbin/ldconfig
# Byte code now, so that no start of the node compiles its imports again on an emulated processor.
chroot "$root" /usr/bin/python3 -m compileall -q -j 0 /usr/lib/python3.11 /usr/lib/python3/dist-packages || true
# Programs whose libraries were taken out would fail at run time only: fail here instead.
for program in /usr/bin/qemu-system-x86_64 /usr/lib/postgresql/15/bin/postgres \
    /usr/lib/postgresql/15/bin/psql /usr/lib/postgresql/15/bin/initdb /usr/bin/curl /usr/bin/python3; do
    if chroot "$root" ldd "$program" | grep 'not found' >&2; then
        echo "$program lacks a library" >&2
        exit 1
    fi
done
chroot "$root" /usr/bin/python3 -c 'import psycopg2, http.server, json, argparse, hmac'
