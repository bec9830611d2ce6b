#!/usr/bin/env bash
# All tests. `--fast` leaves the slow ones (whole chains, full-size phantom) out; other arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

marker=()
if [ "${1:-}" = "--fast" ]; then
    marker=(-m "not slow")
    shift
fi
ruff check .
ruff format --check .
OMP_NUM_THREADS=1 python -m pytest "${marker[@]}" "$@"
