# Sourced by whoever runs serve.py: goes to the checkout's root, makes .venv-label if it is absent or the requirements
# changed, and puts it first on the PATH. PYTHON=... chooses the interpreter (3.11).
cd "$(dirname "${BASH_SOURCE[0]}")/.."

label_stamp=.venv-label/requirements.installed
if ! cat requirements-label.txt shared/pyproject.toml scripts/label_environment.sh | cmp -s - "$label_stamp"; then
    python=${PYTHON:-$(command -v python3.11 || command -v python3)}
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "error: $python is not Python 3.11: install it, or give PYTHON=/path/to/python3.11" >&2
        return 2
    }
    echo "Installing into .venv-label (once, a few minutes) ..."
    [ -x .venv-label/bin/python ] || "$python" -m venv .venv-label
    # Written last: an installation that was broken off is taken up again.
    .venv-label/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -r requirements-label.txt &&
        .venv-label/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps monailabel==0.8.5 pydicom-seg==0.4.1 &&
        .venv-label/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps --editable shared &&
        cat requirements-label.txt shared/pyproject.toml scripts/label_environment.sh > "$label_stamp" || return 1
fi
export PATH="$PWD/.venv-label/bin:$PATH"
