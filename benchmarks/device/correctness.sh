#!/usr/bin/env bash
# Recordings and laws on a CUDA device; options: --help. See README.md beside this.
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/device/environment.sh
exec "$PYTHON" -m benchmarks.device.correctness "$@"
