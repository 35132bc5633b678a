#!/bin/bash
# User data of a GPU node: fetches the model-sync program by hash, installs and starts it.
#
# Runs before kubelet and before the instance-store array is mounted, so it must be quick and must leave the models
# alone: the service that it starts waits for the storage itself. The chart puts the settings above this text.
set -euo pipefail

: "${AWS_REGION:?}" "${ARTIFACTS_BUCKET:?}" "${MODEL_SYNC_SETTINGS:?}"
# Empty on AWS. A node without an instance of its own runs these bytes in a folder.
root="${COMFYUI_NODE_ROOT:-}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

say() { echo "comfyui-model-sync: $*" >&2; }

# fetch KEY SHA256 NAME: the object as $work/NAME, or a message and status 1.
fetch() {
  local file="$work/$3" source="s3://$ARTIFACTS_BUCKET/$1" attempt
  for attempt in 1 2 3 4 5 6 7 8; do  # 72 s in all: a network that is late by a minute
    if aws s3 cp --only-show-errors --region "$AWS_REGION" "$source" "$file"; then
      # Other bytes under this key are no passing fault: not retried, never installed.
      echo "$2  $file" | sha256sum --check --status && return 0
      say "$source does not have the SHA-256 $2; nothing is installed"
      return 1
    fi
    say "attempt $attempt of 8 to fetch $source failed"
    sleep "$((attempt * 2))"
  done
  say "giving up on $source; nothing is installed"
  return 1
}

fetches=()
fetch "${PROGRAM_KEY:?}" "${PROGRAM_SHA256:?}" comfyui-model-sync & fetches+=("$!")
fetch "${SERVICE_KEY:?}" "${SERVICE_SHA256:?}" comfyui-model-sync.service & fetches+=("$!")
fetch "${TIMER_KEY:?}" "${TIMER_SHA256:?}" comfyui-model-sync.timer & fetches+=("$!")
fetch "${PATH_KEY:?}" "${PATH_SHA256:?}" comfyui-model-sync.path & fetches+=("$!")
# All of them, also after the first failure: none may go on in a folder that is gone.
status=0
for fetching in "${fetches[@]}"; do
  wait "$fetching" || status=1
done
[ "$status" = 0 ] || exit 1

install -d "$root/etc/systemd/system" "$root/usr/local/bin"
install -m 0755 "$work/comfyui-model-sync" "$root/usr/local/bin"
install -m 0644 "$work/comfyui-model-sync.service" "$work/comfyui-model-sync.timer" "$work/comfyui-model-sync.path" \
  "$root/etc/systemd/system"
printf '%s\n' "$MODEL_SYNC_SETTINGS" >"$root/etc/comfyui-model-sync.env"

# The service waits for storage that is mounted only after this script: waiting for it here would never end.
units=(comfyui-model-sync.path comfyui-model-sync.timer comfyui-model-sync.service)
systemctl daemon-reload
systemctl enable "${units[@]}"
systemctl start --no-block "${units[@]}"
say "installed"
