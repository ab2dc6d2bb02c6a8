#!/usr/bin/env bash
# Captures the golden fixtures on a machine that has PyTorch and transformers:
#   bash scripts/golden/capture.sh OUT.tar.gz
# Unpack the archive in test/fixtures. It holds checkpoints/<name>/ (tiny random models) and goldens/<name>.safetensors.
set -euo pipefail
archive=$(realpath -m "$1")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=8 PYTHONUNBUFFERED=1
python3 "$here/capture.py" "$work" "$here/../../test/fixtures/images"
mkdir -p "$(dirname "$archive")"
tar -C "$work" -czf "$archive" checkpoints goldens capture.log
ls -l "$archive"
