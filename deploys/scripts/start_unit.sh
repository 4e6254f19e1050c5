# Starts a systemd unit, and waits until its program answers.
#
# start_unit.sh start|restart|await UNIT SECONDS PATIENCE ANSWER
#   SECONDS   how long the start may take
#   PATIENCE  how long the active unit may take until ANSWER, a command, succeeds; an empty ANSWER is not run
#
# Ends with 1 and a reason as soon as the start failed, also when the unit starts and ends repeatedly.
set -u
verb=$1 unit=$2 seconds=$3 patience=$4 answer=$5
# Restarts by systemd itself after which a unit does not stay up.
limit=2

now() { cut -d. -f1 /proc/uptime; }
show() { systemctl show -P "$1" "$unit"; }
fail() { echo "$unit $1" >&2; exit 1; }

case $verb in
await) ;;
restart)
  # The restarts that are counted below are those of this start.
  systemctl reset-failed "$unit" 2>/dev/null
  systemctl restart --no-block "$unit" || exit 1 ;;
*) systemctl start --no-block "$unit" || exit 1 ;;
esac
start=$(now) active='' first=$(show NRestarts)
while :; do
  restarts=$(show NRestarts) job=$(show Job) state=$(show ActiveState) at=$(now)
  [ "$((${restarts:-0} - ${first:-0}))" -lt "$limit" ] || fail "does not stay up: systemd started it $((restarts - first + 1)) times"
  # The state is final only when no job waits or runs.
  case ${job:-0}:$state in
  0:active | 0:reloading)
    active=${active:-$at}
    if [ -z "$answer" ] || sh -c "$answer" >/dev/null 2>&1; then exit 0; fi
    [ "$((at - active))" -lt "$patience" ] || fail "runs, but does not answer within $patience s" ;;
  0:failed | 0:inactive) fail "did not start" ;;
  *) [ "$((at - start))" -lt "$seconds" ] || fail "did not start within $seconds s" ;;
  esac
  sleep 1
done
