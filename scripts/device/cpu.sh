#!/bin/sh
# The CPU kernels on another machine: tests of every instruction set it has, then the speed of each set.
#   scripts/device/cpu.sh build   here: engine-native/build-device/{test-ops,bench-ops}, standing alone (no Node, no libstdc++)
#   scripts/device/cpu.sh [OUT]   there: runs them; the report goes to OUT/cpu.txt as well. Threads: HEARTH_THREADS (default 2).
set -eu
cd "$(dirname "$0")/../.."
build=engine-native/build-device
if [ "${1:-}" = build ]; then
  cmake -S engine-native -B $build -G Ninja -DHEARTH_CUDA=off -DCMAKE_EXE_LINKER_FLAGS="-static-libstdc++ -static-libgcc -s" >/dev/null
  ninja -C $build -j2 test-ops bench-ops
  cp $build/tests/test-ops $build/bench/bench-ops $build/
  ls -l $build/test-ops $build/bench-ops
  exit 0
fi
out=${1:-/tmp}
threads=${HEARTH_THREADS:-2}
status=0
report() {
  grep -m1 'model name' /proc/cpuinfo
  grep -m1 -o -w -E 'avx512_vnni|avx_vnni|amx_int8|amx_bf16|avx512_bf16' /proc/cpuinfo | sort -u | tr '\n' ' '
  nproc
  echo "== tests on everything the machine has"
  $build/test-ops --gtest_brief=1 || status=1
  for cap in avx2 avx-vnni avx512 amx; do
    echo "== HEARTH_CPU_MAX=$cap, $threads threads"
    HEARTH_CPU_MAX=$cap $build/bench-ops --threads "$threads" --rows 1,8,128,512 --seconds 1 || status=1
  done
  echo "== best set, group 128 asymmetric; exact activations; W8A8; F16"
  $build/bench-ops --threads "$threads" --rows 1,8,512 --group 128 --asymmetric --seconds 1 || status=1
  $build/bench-ops --threads "$threads" --rows 1,128 --activations exact --seconds 1 || status=1
  $build/bench-ops --threads "$threads" --rows 1,512 --weights w8 --seconds 1 || status=1
  $build/bench-ops --threads "$threads" --rows 1,64 --weights f16 --layers 8 --seconds 1 || status=1
  echo "== all cores"
  $build/bench-ops --rows 1,8,512 --seconds 1 || status=1
  echo "status $status"
}
report 2>&1 | tee "$out/cpu.txt"
grep -q '^status 0$' "$out/cpu.txt"
