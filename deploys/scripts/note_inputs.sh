# Notes with what content of its files a unit runs, for as long as this start of it lasts.
#
# note_inputs.sh NOTE UNIT FILE...
#   NOTE  the file to write: the unit's invocation, and a line of sha256sum for each FILE that is there
set -u
note=$1 unit=$2
shift 2
invocation=$(systemctl show -p InvocationID --value "$unit") && [ -n "$invocation" ] || exit 0
mkdir -p "${note%/*}" || exit 0
umask 077
{ echo "$invocation"; sha256sum -- "$@" 2>/dev/null; } >"$note"
exit 0
