#!/bin/sh
# Makes target/interop-venv, the Python that tests/interop.rs runs its peers with. Does nothing when
# the venv already holds what requirements.txt asks for.
#
# PYTHON names another interpreter to make it with than python3.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/interop-venv
wanted=$here/requirements.txt
# Written last: a venv without it was left half made.
installed=$venv/installed.txt

if [ -x "$venv/bin/python" ] && cmp -s "$wanted" "$installed"; then
    exit 0
fi
mkdir -p "$(dirname "$venv")"
"${PYTHON:-python3}" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --only-binary :all: --no-deps --requirement "$wanted"
"$venv/bin/python" -m pip check --disable-pip-version-check >/dev/null
cp "$wanted" "$installed"
