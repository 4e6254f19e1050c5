# The node's identity, made once.
#
# node_key.sh state KEY_DIRECTORY FINGERPRINT LEGACY
#   prints one word: ok, missing, unrecorded, lost, changed, size, mode, dangling, legacy or legacy-size
# node_key.sh make KEY_DIRECTORY FINGERPRINT LEGACY IMAGE
#   makes the key with the node's own image, unless there is one, and records its fingerprint
# node_key.sh record KEY_DIRECTORY FINGERPRINT LEGACY
#   records the fingerprint of a key that is there
# node_key.sh adopt KEY_DIRECTORY FINGERPRINT LEGACY IMAGE
#   copies the key from where the install guide put it, unless the image carries it, and records its fingerprint
# node_key.sh public KEY_DIRECTORY FINGERPRINT LEGACY IMAGE
#   has the image show the key's public part, and keeps that beside the fingerprint
#
# FINGERPRINT is a file off the storage volume: the key's SHA-256. LEGACY is where the install guide put the key.
set -eu
umask 077
verb=$1 directory=$2 fingerprint=$3 legacy=$4
key=$directory/node.key
kept=${fingerprint%/*}/node-key.public

sum() { sha256sum <"$1" | cut -d' ' -f1; }

state() {
  if [ -e "$key" ]; then
    if [ ! -f "$key" ] || [ "$(stat -L -c %s "$key")" != 32 ]; then echo size
    elif [ ! -s "$fingerprint" ]; then echo unrecorded
    elif [ "$(cat "$fingerprint")" != "$(sum "$key")" ]; then echo changed
    elif [ "$(stat -L -c %a:%u "$key")" != 600:0 ]; then echo mode
    else echo ok
    fi
  elif [ -L "$key" ]; then echo dangling
  elif [ -s "$fingerprint" ]; then
    if [ -f "$legacy" ] && [ "$(cat "$fingerprint")" = "$(sum "$legacy")" ]; then echo legacy; else echo lost; fi
  elif [ -e "$legacy" ] || [ -L "$legacy" ]; then
    if [ -f "$legacy" ] && [ "$(stat -L -c %s "$legacy")" = 32 ]; then echo legacy; else echo legacy-size; fi
  else echo missing
  fi
}

# Written beside and renamed, so that a run killed here leaves the old file or the new one.
record() {
  mkdir -p "${fingerprint%/*}"
  chmod 755 "${fingerprint%/*}"
  sum "$key" >"$fingerprint.new"
  chown 0:0 "$key"
  chmod 600 "$key"
  sync "$fingerprint.new" "$key"
  mv "$fingerprint.new" "$fingerprint"
  # A run that was killed here before may have left the key's other name.
  rm -rf "$directory/new"
}

public_in() { grep -o -w -E '04[0-9a-f]{128}' | head -n1; }

shown() {
  podman run --rm --network=none --volume "$directory:/key:ro,z" "$1" show public-key --key-file /key/node.key 2>/dev/null |
    public_in || true
}

# Every copy of the image carries a key.
baked() {
  container=$(podman create --replace --name=gevulot-key-check "$1" run) || return
  podman cp "$container:/var/lib/gevulot/node.key" - 2>/dev/null | tar -xO 2>/dev/null | sha256sum | cut -d' ' -f1 || true
  podman rm "$container" >/dev/null
}

fresh_directory() {
  mkdir -p "$directory"
  chmod 700 "$directory"
  rm -rf "$directory/new"
  mkdir "$directory/new"
}

# A link never overwrites.
install_new() {
  chmod 600 "$directory/new/node.key"
  sync "$directory/new/node.key"
  ln "$directory/new/node.key" "$key"
  sync "$directory"
  record
}

keep() {
  printf '%s\n' "$1" >"$kept.new"
  chmod 644 "$kept.new"
  mv "$kept.new" "$kept"
}

case $verb in
state) state ;;
record) record ;;
adopt)
  [ "$(state)" = legacy ] || { echo "the key's state is $(state), so none is taken over" >&2; exit 1; }
  fresh_directory
  cp "$legacy" "$directory/new/node.key"
  carried=$(baked "$5")
  if [ "$carried" = "$(sum "$directory/new/node.key")" ]; then
    echo "$legacy is the key that every copy of the image $5 carries, so it is public; move it away and run again" >&2
    exit 1
  fi
  install_new
  ;;
public)
  public=$(shown "$5")
  [ -n "$public" ] || { echo "the image $5 does not show the public key of $key; expected 130 hexadecimal digits" >&2; exit 1; }
  keep "$public"
  ;;
make)
  [ "$(state)" = missing ] || { echo "the key's state is $(state), so none is made" >&2; exit 1; }
  image=$5
  # A mount over /var/lib/gevulot hides the key that every copy of the image carries.
  fresh_directory
  output=$(podman run --rm --network=none --volume "$directory/new:/var/lib/gevulot:z" "$image" generate node-key)
  [ "$(stat -c %s "$directory/new/node.key")" = 32 ] || { echo "the image made a key that is not 32 bytes long" >&2; exit 1; }
  carried=$(baked "$image")
  if [ "$carried" = "$(sum "$directory/new/node.key")" ]; then
    echo "the image gave its own built-in key, which is public; expected a new one" >&2
    exit 1
  fi
  install_new
  public=$(printf '%s\n' "$output" | public_in) || true
  [ -n "$public" ] || public=$(shown "$image")
  [ -z "$public" ] || keep "$public"
  ;;
esac
