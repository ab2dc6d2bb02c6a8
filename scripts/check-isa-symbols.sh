#!/bin/sh
# Inline code of the CPU kernels must live in its instruction set's namespace: a weak symbol outside one could be kept from
# the AVX-512 object and crash an AVX2 machine. Usage: check-isa-symbols.sh BUILD_FOLDER
set -eu
cd "$1/src/kernels/cpu/CMakeFiles"
status=0
for folder in hearth_kernels_*.dir; do
  isa=${folder#hearth_kernels_}
  isa=${isa%.dir}
  [ "$isa" = cpu ] && continue
  foreign=$(find "$folder" -name '*.o' -exec nm -C {} + | grep -E ' [WVu] ' | grep -v "::$isa::" || true)
  if [ -n "$foreign" ]; then
    echo "$isa has weak symbols outside its namespace:"
    echo "$foreign"
    status=1
  fi
done
exit $status
