#!/usr/bin/env bash
# Make .venv: exactly what requirements.lock pins, by hash, and this project itself, editable.
#
# Done once, and again when the lock or the project's metadata change or the folder was moved.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=".venv/made-from"
# A venv has its own path written into it, so a moved folder needs a new one.
wanted="$(printf '%s\n' "$PWD" && sha256sum requirements.lock pyproject.toml)"
is_made() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x .venv/bin/python ]; }

is_made && exit 0
mkdir -p .tools
exec 9>.tools/venv.lock
flock 9 # a second `make` waits here for the first, and then finds its work done
is_made && exit 0

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
python=""
for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 python3.12 python3.13 python3.14; do
  if is_new_enough "$candidate"; then
    python="$candidate"
    break
  fi
done
if [ -z "$python" ]; then
  echo "make venv: Python 3.11 or newer is needed, and none is on the PATH. Install it, or name it: make PYTHON=/path/to/python3.11 venv" >&2
  exit 1
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then # Debian and Ubuntu keep it in a package of its own
  package="$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "make venv: $python cannot make virtual environments. Install $package: sudo apt-get install $package" >&2
    exit 1
  fi
  echo "Installing $package, without which $python cannot make virtual environments"
  apt-get -qq install -y --no-install-recommends "$package" >/dev/null 2>&1 ||
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends "$package" >/dev/null; }
fi

echo "Making .venv (about half a minute)"
# One that was made here completely is brought up to date; anything else is made anew.
if ! { [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$PWD" ] && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
  "$python" -m venv --clear .venv
fi
rm -f "$stamp"
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input --quiet "$@"; }
# What is never imported need not be compiled, which is a quarter of the time; the rest is, when it is first imported.
pip install --no-compile --only-binary :all: --require-hashes -r requirements.lock
# hatchling, which builds it, is in the lock: nothing is fetched that the lock does not pin.
pip install --no-deps --no-build-isolation --no-index --editable .
printf '%s\n' "$wanted" >"$stamp"
