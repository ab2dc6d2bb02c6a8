#!/bin/sh
# What each CUDA kernel takes here, and the Llama shapes' layer chains: the ops of docs/performance-cuda.md.
#   scripts/gpu/bench.sh [hearth-gpu-bench options]
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${HEARTH_GPU_BENCH:-$root/engine-native/build/tests/gpu/hearth-gpu-bench}
if [ $# -gt 0 ]; then exec "$program" "$@"; fi
for shape in 7b 8b 1b; do echo "== $shape"; "$program" --shape $shape --what decode,batch,prefill,ops; done
echo "== long context"; "$program" --what context
echo "== INT8 KV"; "$program" --what batch,int8kv --batches 16,64
echo "== FP16"; "$program" --what fp16,decode,batch
echo "== Ampere path"; "$program" --profile orin-agx --what decode,batch,prefill
