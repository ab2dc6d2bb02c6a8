#!/usr/bin/env bash
# A short try of everything on a two-GPU machine: bash scripts/train/smoke.sh OUT   (about two and a half minutes)
set -uo pipefail
out=$1
cd "$(dirname "$0")"
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=4
nvidia-smi -L; lscpu | grep -E 'Model name|^CPU\(s\)|L3'; nvidia-smi topo -m 2>/dev/null | head -4
[ -f ../golden/capture.sh ] && (timeout 200 bash ../golden/capture.sh "$out/golden.tar.gz" > "$out/golden.log" 2>&1; echo "golden rc $?") &
golden=$!
work=/tmp/hearth-smoke
try() { CUDA_VISIBLE_DEVICES=$1 timeout 130 python3 train.py --minutes .55 --workers 9 --every 40 --out "$work/$2" "${@:3}" > "$out/$2.log" 2>&1; }
try 0 muon --state "$work/state" & a=$!
try 1 adam --optimiser adam --adam-rate 2e-3 & b=$!
wait $a $b
tail -n 40 "$out/muon.log"; echo; tail -n 3 "$out/adam.log"
date +%T
(CUDA_VISIBLE_DEVICES=0 timeout 60 python3 finish.py --model "$work/muon" --out "$work/finish" --questions 120 --calibration-rows 16; date +%T
 mkdir -p "$work/folder" "$work/fixture"; tar xzf "$work/finish/fixture.tar.gz" -C "$work/fixture"
 python3 -c "import export, model; export.write_settings('$work/folder', model.config())"
 cp "$work/muon/model.safetensors" "$work/folder/"
 CUDA_VISIBLE_DEVICES= timeout 60 python3 capture.py --model "$work/folder" --images "$work/fixture" --out "$work/reference"; date +%T
 cp "$work/finish/sheet.png" "$out/") 2>&1 | tail -n 60 & f=$!
OMP_NUM_THREADS=1 timeout 75 torchrun --nproc_per_node 2 train.py --minutes .2 --workers 9 --every 40 --out "$work/two" 2>&1 | tail -n 6
wait $f $golden
date +%T
