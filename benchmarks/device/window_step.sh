#!/usr/bin/env bash
# A window step of LLaDA-8B against reading its weights, on a CUDA device; options: --help. See README.md beside this.
set -euo pipefail
cd "$(dirname "$0")/../.."
. benchmarks/device/environment.sh
exec "$PYTHON" -m benchmarks.device.window_step "$@"
