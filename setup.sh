#!/usr/bin/env bash
# Installs what Cleave needs from Debian 12's packages, and nothing that is there already. Sourced by ./start and ./check.
set -euo pipefail

packages=(
  ca-certificates cmake g++ git ninja-build iproute2
  libboost1.81-dev libceres-dev libcxxopts-dev libgloo-dev libgtest-dev libhwy-dev libicu-dev libopenblas-pthread-dev libsentencepiece-dev libspdlog-dev libspng-dev
  libssl-dev libstb-dev libtomlplusplus-dev libtorch-dev libturbojpeg0-dev libwebp-dev nlohmann-json3-dev zlib1g-dev
  dataset-fashion-mnist
)

# cleave_setup [package …]: the packages above and those named, by apt as root or through sudo.
cleave_setup() {
  local missing=() package
  for package in "${packages[@]}" "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "setup: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]}"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# A BLAS that the environment forces to another CPU's kernels is up to two times slower, and builds and runs find their tools.
unset OPENBLAS_CORETYPE
