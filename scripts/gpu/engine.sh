#!/bin/bash
# The whole-engine rows of docs/performance.md's H200 table, by hearth-bench alone: for a machine that has a GPU, a driver and a
# build, but no Node.
#   scripts/gpu/engine.sh OUTPUT_FOLDER [SECONDS, default 250] [ROW...]
# Adds to OUTPUT_FOLDER/engine.jsonl (a line for the machine and one a measurement, each with its row's name) and prints a table.
# What matters most runs first. A row is begun only where enough of the time is left, and cut when none is; both are named.
# HEARTH_BENCH: the program; HEARTH_BENCH_BUILD: how to name the build where the folder is no git checkout.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${HEARTH_BENCH:-$root/engine-native/build/hearth-bench}
least=8 # seconds: a 4-bit 7B is made and loaded in fewer, so a row begun with this much left has lines to show

# name | forced profile, - for the device's own | options of hearth-bench
rows='
7b           | -         | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1,2,3,4,8,16,32,64 --prompt 128 --new 128 --repeat 3
7b-prompts   | -         | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1 --prompt 128,512,2048 --new 64 --repeat 5
8b           | -         | --shape llama-3-8b --precision w4a16 --head-bits 4 --batch 1,2,4,8,16,32,64 --prompt 128 --new 128 --repeat 3
1.1b         | -         | --shape llama-1.1b --precision w4a16 --head-bits 4 --batch 1,2,4,8,64 --prompt 128 --new 128 --repeat 3
7b-int8-kv   | -         | --shape llama-2-7b --precision w4a16 --head-bits 4 --kv int8 --batch 1,64 --prompt 128 --new 128 --repeat 3
7b-orin-agx  | orin-agx  | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1,2,4,8 --prompt 128 --new 128 --repeat 3 --chunk 2048
7b-rtx-4090  | rtx-4090  | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1,2,4,8 --prompt 128 --new 128 --repeat 3 --chunk 2048
3b-pictures  | -         | --shape vila-1.5-3b --precision w4a16 --head-bits 4 --images 1,8 --new 64 --repeat 3
7b-f16       | -         | --shape llama-2-7b --precision f16 --head-bits 4 --batch 1,2,4,8 --prompt 128 --new 128 --repeat 3
siglip       | -         | --shape siglip-so400m-384 --precision f16 --images 1,8 --repeat 5
clip         | -         | --shape clip-l-336 --precision f16 --images 1,8 --repeat 5
7b-orin-agx-prompts | orin-agx | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1 --prompt 128,512,2048 --new 16 --repeat 3 --chunk 2048
7b-rtx-4090-prompts | rtx-4090 | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1 --prompt 128,512,2048 --new 16 --repeat 3 --chunk 2048
8b-pictures  | -         | --shape vila-1.5-8b --precision w4a16 --head-bits 4 --images 1 --new 64 --repeat 3
8b-rtx-4090  | rtx-4090  | --shape llama-3-8b --precision w4a16 --head-bits 4 --batch 1,2,4,8 --prompt 128 --new 128 --repeat 3 --chunk 2048
7b-sampled   | -         | --shape llama-2-7b --precision w4a16 --head-bits 4 --batch 1,64 --prompt 128 --new 128 --repeat 3 --sampling {"temperature":0.7,"top_p":0.9}
qwen3-8b     | -         | --shape qwen3-8b --precision w4a16 --head-bits 4 --batch 1,4,8 --prompt 128 --new 64 --repeat 3
13b          | -         | --shape llama-2-13b --precision w4a16 --head-bits 4 --batch 1,4,8 --prompt 128 --new 64 --repeat 3
'

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
out=$1 budget=${2:-250}
shift $(($# < 2 ? $# : 2))
case $budget in '' | *[!0-9]*) usage ;; esac
names=$(echo "$rows" | awk -F'|' 'NF == 3 { gsub(/ /, "", $1); print $1 }')
for name in "$@"; do
  echo "$names" | grep -qxF -- "$name" || { echo "engine.sh: no row is called $name; there are: $names" | tr '\n' ' ' >&2; echo >&2; exit 2; }
done
[ -x "$program" ] || { echo "engine.sh: no $program: build it with  npm run build:native  or set HEARTH_BENCH" >&2; exit 1; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
lines=$out/engine.jsonl
end=$((SECONDS + budget))
# Tuning passes of forced profiles are this run's own: nothing of an older build's choices, nothing left in the user's cache.
export HEARTH_TUNING_CACHE=$out/tuning

text() { printf '%s' "$1" | tr -d '\n\r' | sed 's/\\/\\\\/g; s/"/\\"/g'; } # as a JSON string holds it
gpu=$(nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader 2>/dev/null | head -n 1)
build=${HEARTH_BENCH_BUILD:-$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)}
printf '{"row":"machine","gpu":"%s","host":"%s","build":"%s","date":"%s"}\n' "$(text "${gpu:-unknown}")" \
  "$(text "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)")" "$(text "$build")" "$(date -u +%Y-%m-%dT%H:%MZ)" >>"$lines"
echo "${gpu:-no nvidia-smi here}; build $build; $budget s"

# One measured line of the table. hearth-bench writes a line a measurement with its keys in any order.
table='
function number(key) { return match($0, "\"" key "\":[-+.0-9e]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : "" }
function word(key) { return match($0, "\"" key "\":\"[^\"]*") ? substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 4) : "" }
{
  phase = word("phase"); share = ""; at = ""
  if (number("images") != "") at = number("images") " image" (number("images") > 1 ? "s" : "")
  else at = "batch " number("batch") ", prompt " number("prompt")
  if (number("fraction_of_limit") != "") share = sprintf("%5.1f %% of %.0f", 100 * number("fraction_of_limit"), number("limit_tokens_per_second"))
  if (number("fraction_of_matrix") != "") share = sprintf("%5.1f %% of the matrix rate", 100 * number("fraction_of_matrix"))
  value = number("tokens_per_second") != "" ? sprintf("%10.1f tok/s", number("tokens_per_second")) : sprintf("%10.2f ms   ", number("ms"))
  printf "%-20s %-8s %-24s %s  %s\n", row, phase, at, value, share
}'

left_out="" failed=""
while IFS='|' read -r name profile options; do
  name=${name// /} profile=${profile// /}
  [ -n "$name" ] || continue
  [ $# -eq 0 ] || printf '%s\n' "$@" | grep -qxF -- "$name" || continue
  left=$((end - SECONDS))
  if [ "$left" -lt "$least" ]; then left_out="$left_out $name"; continue; fi
  [ "$profile" = - ] && profile=""
  read -r -a arguments <<<"$options" # the sampling's JSON holds no blanks
  began=$SECONDS rc=0
  HEARTH_DEVICE_PROFILE=$profile timeout -k 5 "$left" "$program" --json --device cuda "${arguments[@]}" \
    >"$out/$name.out" 2>"$out/$name.err" </dev/null || rc=$?
  sed -n "s|^{|{\"row\":\"$name\",\"profile\":\"$profile\",|p" "$out/$name.out" >>"$lines"
  awk -v row="$name" "$table" "$out/$name.out"
  case $rc in
    0) echo "  ($((SECONDS - began)) s)" ;;
    124 | 137) left_out="$left_out $name(cut)" ;;
    *) failed="$failed $name"; echo "  $name FAILED with $rc: $(tail -n 1 "$out/$name.err")" ;;
  esac
done <<<"$rows"
[ -z "$left_out" ] || echo "not measured, or not to the end, as the time was over:$left_out"
[ -z "$failed" ] || echo "failed:$failed"
echo "$lines"
[ -z "$failed" ]
