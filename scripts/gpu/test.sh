#!/bin/sh
# Runs the GPU tests on this machine; needs a driver and a GPU, no Node, no toolkit.
#   scripts/gpu/test.sh [--sanitize memcheck|racecheck|initcheck|synccheck] [hearth-gpu-test options]
#   scripts/gpu/test.sh --sanitize TOOL --each SECONDS [--jobs N] [--gtest_filter=...]
# --each: every test in a process of its own, N at once, none longer than SECONDS; a line a test: clean, errors, or not ended.
# HEARTH_DEVICE_PROFILE=orin-agx scripts/gpu/test.sh runs the Ampere code path on a newer GPU.
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${HEARTH_GPU_TEST:-$root/engine-native/build/tests/gpu/hearth-gpu-test}
if [ ! -x "$program" ]; then
  echo "no $program: build it with  cmake -S engine-native -B engine-native/build -DHEARTH_CUDA=auto && cmake --build engine-native/build --target hearth-gpu-test" >&2
  exit 1
fi
[ "$1" = "--sanitize" ] || exec "$program" "$@"
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not on PATH (it comes with the CUDA toolkit)" >&2; exit 1; }
tool=$2
shift 2
# A test asks for more memory than there is: calls that fail and say so are not what is looked for.
case $tool in memcheck) options="--report-api-errors no" ;; *) options= ;; esac
[ "$1" = "--each" ] || exec compute-sanitizer --tool "$tool" $options --error-exitcode 9 "$program" "$@"

seconds=$2 jobs=4
shift 2
if [ "$1" = "--jobs" ]; then jobs=$2; shift 2; fi
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
# one <tool> <seconds> <program> <logs> <test> <options>
one='
  log=$4/$(echo "$5" | tr / _) began=$(date +%s) state=clean
  timeout -k 5 "$2" compute-sanitizer --tool "$1" $6 --error-exitcode 9 "$3" --gtest_filter="$5" >"$log" 2>&1 || state=$?
  case $state in
    clean) ;;
    124 | 137) state="not ended within $2 s" ;;
    9) state="ERRORS: $(grep -m 1 "ERROR SUMMARY" "$log" | cut -d: -f2-)" ;;
    *) state="FAILED with $state: $(grep -m 1 -i -E "failure|error" "$log")" ;;
  esac
  echo "$1  $5  $state  ($(($(date +%s) - began)) s)"
  case $state in clean | "not ended"*) ;; *) grep -m 30 "^=========" "$log"; exit 1 ;; esac
'
"$program" --gtest_list_tests "$@" |
  awk '/^[^ ].*\.$|^[^ ].*\. / { suite = $1 } /^ / { print suite $1 }' |
  xargs -P "$jobs" -I TEST sh -c "$one" one "$tool" "$seconds" "$program" "$logs" TEST "$options"
