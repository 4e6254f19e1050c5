# Pulls an image; again after a pause, unless the registry's answer would be the same.
#
# pull_image.sh IMAGE KEY
#   KEY  the setting that names the image
set -u
image=$1 key=$2

for pause in 10 30 60 120 end; do
  output=$(LC_ALL=C podman pull --quiet "$image" 2>&1) && { printf '%s\n' "$output"; exit 0; }
  code=$?
  last=$(printf '%s\n' "$output" | grep . | tail -n 1)
  case $(printf '%s' "$output" | tr '[:upper:]' '[:lower:]') in
  *toomanyrequests* | *"too many requests"*) ;;
  *"manifest unknown"* | *"name unknown"* | *"not found"* | *"invalid reference"* | *"no image found"* | \
    *"did not resolve to an alias"* | *"no matching manifest"*)
    echo "there is no image $image: $last; correct $key" >&2; exit "$code" ;;
  *unauthorized* | *"authentication required"* | *denied* | *forbidden*)
    echo "the registry does not give $image to this host: $last; correct $key, or run" \
      "\`podman login ${image%%/*}\` on the host as root" >&2
    exit "$code" ;;
  *x509* | *"no space left"*) echo "$image cannot be pulled: $last" >&2; exit "$code" ;;
  esac
  [ "$pause" != end ] || { echo "$image cannot be pulled, tried 5 times: $last" >&2; exit "$code"; }
  echo "$last; tried again in $pause s" >&2
  sleep "$pause"
done
