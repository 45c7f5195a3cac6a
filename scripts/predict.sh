#!/usr/bin/env bash
# Send a scan to the service and save its parcellation.
#   scripts/predict.sh -i scan.nii.gz -o parcellation.nii.gz [--preprocess [full|stripped|none]] [-model regions]
# --preprocess alone means full: a head with skull. stripped is for a brain without skull. Without the
# option the image must be on the network grid.
# NEUROBENTO_URL names the service (default http://127.0.0.1:3000).
set -euo pipefail

usage() {
  echo "usage: $0 -i SCAN -o PARCELLATION [--preprocess [full|stripped|none]] [-model NAME]" >&2
  exit 2
}

input= output= preprocess=false model=regions
while [ $# -gt 0 ]; do
  case $1 in
    -i | --input) input=${2:-}; shift 2 || usage ;;
    -o | --output) output=${2:-}; shift 2 || usage ;;
    -model | --model) model=${2:-}; shift 2 || usage ;;
    --preprocess)
      preprocess=true
      case ${2:-} in full | stripped | none) preprocess=$2; shift ;; esac
      shift ;;
    *) echo "unknown option: $1" >&2; usage ;;
  esac
done
[ -n "$input" ] && [ -n "$output" ] || usage
[ -f "$input" ] || { echo "no such file: $input" >&2; exit 1; }

echo "parcellating; with skull this takes minutes ..." >&2
part=$(mktemp "$output.XXXXXX")
trap 'rm -f "$part"' EXIT
# Do not send the file's name: the service does not need it.
status=$(curl --silent --show-error --request POST \
  --header 'accept: application/gzip' \
  --form 'file=@-;filename=scan' \
  --output "$part" --write-out '%{http_code}' \
  "${NEUROBENTO_URL:-http://127.0.0.1:3000}/predict/?preprocessing=$preprocess&model=$model" <"$input")
if [ "$status" != 200 ]; then
  cat "$part" >&2
  echo >&2
  exit 1
fi
chmod 644 "$part"
mv "$part" "$output"
