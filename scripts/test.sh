#!/usr/bin/env bash
# All tests, in two processes (a file stays in one; tests/conftest.py puts long ones first). `--fast` leaves the slow ones
# (whole chains, full-size phantom) out; other arguments go to pytest, e.g. `-n 0` for one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

marker=()
if [ "${1:-}" = "--fast" ]; then
    marker=(-m "not slow")
    shift
fi
ruff check .
ruff format --check .
# UTF-8 mode, because ITK can leave the process in the C locale, in which torch's compiler cannot read its own templates.
PYTHONUTF8=1 OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 40 \
    "${marker[@]}" "$@"
