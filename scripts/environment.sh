# Sourced by demo.sh and test.sh: goes to the checkout's root, makes .venv if it is absent or the requirements
# changed, and puts it first on the PATH. PYTHON=... chooses the interpreter (3.11).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/requirements.installed
if ! cat requirements.txt shared/pyproject.toml | cmp -s - "$stamp"; then
    python=${PYTHON:-$(command -v python3.11 || command -v python3)}
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "error: $python is not Python 3.11: install it, or give PYTHON=/path/to/python3.11" >&2
        exit 2
    }
    echo "Installing into .venv (once, a few minutes) ..."
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable shared
    # Written last: an installation that was broken off is taken up again.
    cat requirements.txt shared/pyproject.toml > "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
# OpenMP threads that spin while they wait slow two jobs side by side many times over.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
# glibc gives each freed volume back to the system and faults its pages in again: a tenth of a CPU training's time.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-2147483648} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-8589934592}
export MPLBACKEND=Agg
