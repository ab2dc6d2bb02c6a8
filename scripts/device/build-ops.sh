#!/bin/bash
# Builds bench-ops (and test-ops, given a GoogleTest) with g++ alone: no CMake, no other library. For a machine that is
# lent for minutes. The flags are those of engine-native/src/kernels/cpu/CMakeLists.txt.
#   scripts/device/build-ops.sh OUTPUT_FOLDER [GOOGLETEST_FOLDER with include/ and libgtest.a, libgtest_main.a]
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)/engine-native
out=$(mkdir -p "$1/obj" && cd "$1" && pwd)
gtest=${2:-}
plain="-std=c++20 -O2 -fPIC -fno-math-errno -I$root/src"
avx2="-mavx2 -mfma -mf16c -mtune=haswell"
avx512="-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512 -mtune=icelake-server -w"
jobs() {
  for f in "$root"/src/core/{status,dtype,thread_pool,huge_pages,futex}.cpp "$root"/src/device/*.cpp "$root"/src/ops/*.cpp \
           "$root"/src/kernels/cpu/*.cpp "$root"/src/kernels/cpu/reference/*.cpp "$root"/src/kernels/cuda/none.cpp "$root"/bench/op_bench.cpp; do
    [ -e "$f" ] && echo "$plain -c $f"
  done
  [ -n "$gtest" ] && for f in "$root"/tests/ops/*.cpp; do echo "$plain -I$gtest/include -I$root/tests/ops -I$root/tests -c $f"; done
  for set in portable avx2 avx_vnni avx512 amx; do
    case $set in
      portable) flags="-DHEARTH_LANES=4 -DHEARTH_PORTABLE -Wno-psabi" ;;
      avx2) flags="-DHEARTH_LANES=8 $avx2" ;;
      avx_vnni) flags="-DHEARTH_LANES=8 $avx2 -mavxvnni" ;;
      avx512) flags="-DHEARTH_LANES=16 $avx512" ;;
      amx) flags="-DHEARTH_LANES=16 $avx512 -mavx512vnni -mamx-tile -mamx-int8" ;;
    esac
    sources=$(ls "$root"/src/kernels/cpu/$set/*.cpp)
    [ $set = portable ] || [ $set = avx2 ] || [ $set = avx512 ] && sources="$sources $(ls "$root"/src/kernels/cpu/simd/*.cpp)"
    for f in $sources; do
      own=$flags
      [ "$set/$(basename "$f")" = avx512/int8.cpp ] && own="$flags -mavx512vnni"
      echo "$plain -O3 -fno-tree-reassoc -ffp-contract=off -DHEARTH_ISA=$set $own -c $f"
    done
  done
}
# One object a line, named by the line's set and path.
compile() {
  source=${!#}
  name=$(echo "$*" | grep -o 'HEARTH_ISA=[a-z0-9_]*' | cut -d= -f2)_$(echo "${source##*engine-native/}" | tr '/' '_').o
  g++ $* -o "$out/obj/$name" || exit 255
}
export -f compile
export out
jobs | xargs -P "$(nproc)" -I{} bash -c 'compile {}'
common=$(ls "$out"/obj/*_src_*.o)
g++ -o "$out/bench-ops" $common "$out"/obj/*op_bench.cpp.o -lpthread -ldl
[ -z "$gtest" ] || g++ -o "$out/test-ops" $common "$out"/obj/*tests_ops_*.o "$gtest"/libgtest.a "$gtest"/libgtest_main.a -lpthread -ldl
