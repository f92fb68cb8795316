#!/usr/bin/env bash
# Checks and times the CUDA kernels on a machine with an NVIDIA GPU: tools/gpu_check.sh [--seconds N] [STAGE ...]
#
# Stages and their order: tools/gpu_check.sh --list. PYTHON names the interpreter that has torch (default: python3).
# Writes one JSON into $OUT, or build/gpu_check; prints a compact report, the table last. Exit code: 0 all well,
# 1 something failed, 2 no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m tools.gpu_check "$@"
