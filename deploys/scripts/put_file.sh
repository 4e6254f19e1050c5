# Let a file that was uploaded beside its place take that place at once, whatever is there: a link is replaced and not
# followed, and of a file with several names only this one changes.
#
#     sh -c "$(cat put_file.sh)" put_file MODE PATH UPLOADED
set -eu
mode=$1 path=$2 new=$3
chown root:root "$new"
chmod "$mode" "$new"
sync "$new"
mv -fT "$new" "$path"
if command -v restorecon >/dev/null; then restorecon "$path"; fi
