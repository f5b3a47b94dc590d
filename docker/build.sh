#!/usr/bin/env bash
# Builds the image quorate:dev (or $1) from scratch: one static binary, nothing else. Needs Go and a Docker engine; pulls nothing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
image=${1:-quorate:dev}
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
(cd "$root" && CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags '-s -w' -o "$context/quorate" ./cmd/quorate)
mkdir "$context/data"
cp "$root/docker/Dockerfile" "$context/"
DOCKER_BUILDKIT=0 docker build --quiet --tag "$image" "$context"
