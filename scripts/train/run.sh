#!/usr/bin/env bash
# Trains, evaluates, quantises and captures in one go: bash scripts/train/run.sh OUT MINUTES [GPUS]
# OUT gets model.safetensors, awq.safetensors, results.tar.gz (everything else) and train.log. Needs MINUTES + about two.
set -uo pipefail
out=$(realpath -m "$1") minutes=$2 gpus=${3:-1} limit=${LIMIT_SECONDS:-3600}
here=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-/tmp/hearth-train}
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=4
mkdir -p "$out" "$work/finish"
cd "$here"
left() { echo $(( limit - SECONDS - ${1:-0} )); }

launch="python3"
[ "$gpus" -gt 1 ] && launch="torchrun --nproc_per_node $gpus"
timeout "$(left 30)" $launch train.py --minutes "$minutes" --out "$out" --state "$work/state" --every 100 --workers 10 ${TRAIN_ARGS:-} \
    > >(tee "$out/train.log" | awk 'NR % 5 == 1') 2> "$work/train.err"
echo "training ended with $? after $SECONDS s"
tail -n 5 "$work/train.err"
mv "$out/train-log.jsonl" "$work/finish/"

reference() {      # waits for the fixture's pictures, then captures with transformers on the CPU
    until [ -f "$work/finish/fixture.tar.gz" ]; do sleep 1; done
    mkdir -p "$work/folder" "$work/fixture"
    tar xzf "$work/finish/fixture.tar.gz" -C "$work/fixture"
    python3 -c "import export, model; export.write_settings('$work/folder', model.config())"
    cp "$out/model.safetensors" "$work/folder/"
    CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=8 python3 capture.py --model "$work/folder" --images "$work/fixture" --out "$work/finish/reference"
}
export -f reference; export work out
timeout "$(left 20)" bash -c reference > "$work/finish/reference.log" 2>&1 & waiting=$!
timeout "$(left 20)" python3 finish.py --model "$out" --out "$work/finish" 2>&1
echo "evaluation ended with $? after $SECONDS s"
wait $waiting
grep -v Loading "$work/finish/reference.log" | tail -n 5
[ -f "$work/finish/awq.safetensors" ] && mv "$work/finish/awq.safetensors" "$out/"
rm -f "$work/finish/model.safetensors"
tar czf "$out/results.tar.gz" -C "$work/finish" .
ls -l "$out"
echo "all done after $SECONDS s"
