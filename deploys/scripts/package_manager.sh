# Runs a command of apt or dnf; again, while another program holds a lock of the packages.
#
# package_manager.sh SECONDS COMMAND
#
# For example, automatic updates run shortly after a boot. apt's own option for waiting does not cover the lock of its
# lists.
set -u
seconds=$1 command=$2

now() { cut -d. -f1 /proc/uptime; }

end=$(($(now) + seconds)) waited=
while :; do
  # The output is compared below, so it must be English.
  output=$(LC_ALL=C sh -c "$command" 2>&1) && { printf '%s\n' "$output"; exit 0; }
  code=$?
  case $output in
  *"dpkg was interrupted"*)
    echo "an earlier installation of packages was interrupted, and apt installs nothing until it is finished;" \
      "run \`dpkg --configure -a\` on this host, then run this again" >&2
    exit "$code" ;;
  *"Could not get lock"* | *"Unable to lock"* | *"Unable to acquire the dpkg"* | *"locked by another process"* | \
    *"Resource temporarily unavailable"* | *"ailed to obtain"*"lock"* | *"an't create"*"lock"* | \
    *"Another app is currently holding"*) ;;
  *) printf '%s\n' "$output" >&2; exit "$code" ;;
  esac
  if [ "$(now)" -ge "$end" ]; then
    line=$(printf '%s\n' "$output" | grep -m1 -i lock)
    echo "another program has held the lock of the packages for $seconds s: $line; wait for it or end it, then run" \
      "this again" >&2
    exit "$code"
  fi
  [ -n "$waited" ] || echo "waiting for another program that installs packages" >&2
  waited=yes
  sleep 5
done
