#!/bin/sh
# Runs the GPU tests on this machine; needs a driver and a GPU, no Node, no toolkit.
#   scripts/gpu/test.sh [--sanitize memcheck|racecheck|initcheck|synccheck] [hearth-gpu-test options]
# HEARTH_DEVICE_PROFILE=orin-agx scripts/gpu/test.sh runs the Ampere code path on a newer GPU.
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${HEARTH_GPU_TEST:-$root/engine-native/build/tests/gpu/hearth-gpu-test}
if [ ! -x "$program" ]; then
  echo "no $program: build it with  cmake -S engine-native -B engine-native/build -DHEARTH_CUDA=auto && cmake --build engine-native/build --target hearth-gpu-test" >&2
  exit 1
fi
if [ "$1" = "--sanitize" ]; then
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on PATH (it comes with the CUDA toolkit)" >&2; exit 1; }
  tool=$2
  shift 2
  exec compute-sanitizer --tool "$tool" --error-exitcode 9 "$program" "$@"
fi
exec "$program" "$@"
