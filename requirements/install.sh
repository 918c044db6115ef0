#!/bin/sh
# Makes .venv and installs the hashed lock and this checkout into it; does nothing where that is done.
# `make install` calls it, from the top of the checkout.
set -eu

# What .venv was made from: this path, which it names in many places, so that one that was copied or moved here is not
# taken for ours; and the files that say what is in it. It is there only while all of that is installed: what was
# interrupted may hold half a package, and is made anew.
stamp=.venv/installed
here=$(pwd -P)
wanted="$here
$(cksum requirements/dev.txt pyproject.toml)"

runs() { .venv/bin/python -c 'import pip' 2>/dev/null; }

if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && runs; then
    exit 0
fi

if [ "$(head -n 1 $stamp 2>/dev/null)" != "$here" ] || ! runs; then
    found=
    for python in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            found=$python
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "install: no Python 3.11, 3.12 or 3.13 with venv and ensurepip found (${PYTHON:+$PYTHON, }python3.13," \
            "python3.12, python3.11, python3). Install one (on Debian: python3 and python3-venv), or name it:" \
            "make install PYTHON=/path/to/python3" >&2
        exit 1
    fi
    echo "making .venv with $found: $("$found" --version)"
    rm -rf .venv
    "$found" -m venv .venv
fi

rm -f $stamp
# A lock is complete, so nothing is to be resolved; and foolbox's own dependencies are left out on purpose.
.venv/bin/python -m pip install --no-deps --require-hashes -r requirements/dev.txt
.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
printf '%s\n' "$wanted" >$stamp.new
mv $stamp.new $stamp
