#!/bin/bash
# User data of a GPU node: downloads the model-sync program, checks its hash, installs and starts it.
#
# Runs before kubelet and before the instance-store array is mounted, so it must be quick and must not touch the models:
# the service that it starts waits for the storage itself. The chart puts the variables above this text.
set -euo pipefail

: "${AWS_REGION:?}" "${ARTIFACTS_BUCKET:?}" "${MODEL_SYNC_SETTINGS:?}"
# Empty on AWS. A simulated node runs this script in a folder.
root="${COMFYUI_NODE_ROOT:-}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

log() { echo "comfyui-model-sync: $*" >&2; }

# fetch KEY SHA256 NAME: downloads the object to $work/NAME; returns 1 after a message.
fetch() {
  local file="$work/$3" source="s3://$ARTIFACTS_BUCKET/$1" attempt
  for attempt in 1 2 3 4 5 6 7 8; do  # 72 s in all, for a network that comes up late
    if aws s3 cp --only-show-errors --region "$AWS_REGION" "$source" "$file"; then
      # Other content is not a transient error: not retried, never installed.
      echo "$2  $file" | sha256sum --check --status && return 0
      log "$source does not have the SHA-256 $2; nothing is installed"
      return 1
    fi
    log "attempt $attempt of 8 to fetch $source failed"
    sleep "$((attempt * 2))"
  done
  log "giving up on $source; nothing is installed"
  return 1
}

fetches=()
fetch "${PROGRAM_KEY:?}" "${PROGRAM_SHA256:?}" comfyui-model-sync & fetches+=("$!")
fetch "${SERVICE_KEY:?}" "${SERVICE_SHA256:?}" comfyui-model-sync.service & fetches+=("$!")
fetch "${TIMER_KEY:?}" "${TIMER_SHA256:?}" comfyui-model-sync.timer & fetches+=("$!")
fetch "${PATH_KEY:?}" "${PATH_SHA256:?}" comfyui-model-sync.path & fetches+=("$!")
# Waits for all, also after a failure: none may continue in a folder that has been deleted.
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

# --no-block: the service waits for storage that is mounted only after this script has ended.
units=(comfyui-model-sync.path comfyui-model-sync.timer comfyui-model-sync.service)
systemctl daemon-reload
systemctl enable "${units[@]}"
systemctl start --no-block "${units[@]}"
log "installed"
