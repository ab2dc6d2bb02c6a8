#!/bin/bash
# Builds hearth-gpu-test and hearth-gpu-bench with nvcc and g++ alone (no CMake, no other library than GoogleTest), for a
# machine that has a GPU and a toolkit and little else.
#   scripts/gpu/build-standalone.sh OUTPUT_FOLDER [sm, default 90a] [GOOGLETEST_FOLDER with include/ and libgtest.a]
# HEARTH_PTX=1 also embeds compute_80 PTX, so that a forced Ampere profile runs Ampere code.
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
sm=${2:-90a}
gtest=${3:-}
number=${sm%a}
src=$root/engine-native/src
kernels=$src/kernels/cuda
jobs=$(nproc)
mkdir -p "$out/obj"

compile_kernel() {  # source: its cubin, its PTX, the object that embeds both
  name=$(basename "$1" .cu)
  assembly="HEARTH_EMBED(${name}_sm$number, \"$out/obj/$name.cubin\")\\n"
  table="{$number, false, hearth_cuda_${name}_sm$number}, "
  nvcc -std=c++17 -O3 -I"$src" -gencode arch=compute_$sm,code=sm_$sm -cubin -Xptxas -v -o "$out/obj/$name.cubin" "$1" 2> "$out/obj/$name.txt" || { cat "$out/obj/$name.txt"; exit 255; }
  case $1 in
    */sm90/*) ;;
    *) if [ -n "$HEARTH_PTX" ]; then
         nvcc -std=c++17 -O3 -I"$src" -gencode arch=compute_80,code=compute_80 -ptx -o "$out/obj/$name.ptx" "$1" || exit 255
         assembly="${assembly}HEARTH_EMBED(${name}_ptx, \"$out/obj/$name.ptx\")\\n"
         table="${table}{80, true, hearth_cuda_${name}_ptx}, "
       fi ;;
  esac
  sed -e "s|@cuda_assembly@|$assembly|" -e "s|@cuda_table@|$table|" -e "s|@cuda_module_name@|$name|g" "$kernels/module.cpp.in" > "$out/obj/module_$name.cpp"
  g++ -std=c++20 -O1 -I"$src" -c -o "$out/obj/module_$name.o" "$out/obj/module_$name.cpp" || exit 255
}
compile_host() {
  g++ -std=c++20 -O2 -I"$src" -I"$root/engine-native/tests/gpu" ${gtest:+-I"$gtest/include"} -DHEARTH_CUDA_BUILT="\"$number\"" -c -o "$out/obj/$(echo "${1#$root/}" | tr '/' '_').o" "$1" || exit 255
}
export -f compile_kernel compile_host
export root out sm number src kernels gtest HEARTH_PTX
host=$(ls "$kernels"/host/*.cpp "$src"/device/*.cpp "$src"/core/thread_pool.cpp "$src"/core/{huge_pages,log}.cpp "$src"/kernels/cpu/reference/{attention,elementwise,sample}.cpp "$root"/engine-native/tests/gpu/bench/*.cpp)
[ -n "$gtest" ] && host="$host $(ls "$root"/engine-native/tests/gpu/*.cpp | grep -v resources_test)"
{ for f in $(ls -S "$kernels"/sm90/*.cu "$kernels"/sm80/*.cu "$kernels"/generic/*.cu | sort -t/ -k1,1 -s); do echo "compile_kernel $f"; done
  for f in $host; do echo "compile_host $f"; done; } | xargs -P "$jobs" -I{} bash -c {}
common=$(ls "$out"/obj/module_*.o "$out"/obj/*src_*.o)
g++ -o "$out/hearth-gpu-bench" $common "$out"/obj/*gpu_bench.cpp.o -lpthread -ldl
[ -n "$gtest" ] && g++ -o "$out/hearth-gpu-test" $common $(ls "$out"/obj/*tests_gpu_*.o | grep -v bench) "$gtest/libgtest.a" -lpthread -ldl
ls -la "$out"/hearth-gpu-*
