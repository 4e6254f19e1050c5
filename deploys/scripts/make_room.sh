# Make room for a file of ours: its directory, and a link in its place kept in the archive for the undo.
#
#     sh -c "$(cat make_room.sh)" make_room PATH ARCHIVE
#
# A link is not ours, and neither is its target, so nothing is written through it. The archive is replaced when the new
# one is complete, so that a run that is killed here leaves the old one.
set -eu
path=$1 archive=$2
mkdir -p "${path%/*}"
if [ -L "$path" ] && ! tar -tf "$archive" "${path#/}" >/dev/null 2>&1; then
  if [ ! -e "$archive" ]; then
    echo "$path is a link, and $archive, which would keep it for the undo, is missing; expected the archive of the" \
      "first deploy. Restore it from a backup, or move the link away: mv $path $path.old" >&2
    exit 1
  fi
  cp -p "$archive" "$archive.new"
  tar -C / -rf "$archive.new" "${path#/}"
  sync "$archive.new"
  mv "$archive.new" "$archive"
fi
