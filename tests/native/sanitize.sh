#!/usr/bin/env bash
# Builds the kernels with the address and undefined-behaviour sanitizers and runs their tests: tests/native/sanitize.sh [PYTEST ARGUMENTS]
# PYTHON and CXX name the interpreter and the compiler (GCC). The build goes to a temporary folder; the installed one is not touched.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
cxx=${CXX:-g++}
work=$(mktemp -d)
trap 'LD_PRELOAD= rm -rf "$work"' EXIT

# The package as it is, but for the folder of the kernels.
mkdir -p "$work/streamdac/native"
for path in "$root"/streamdac/*; do
    [ "$(basename "$path")" = native ] || ln -s "$path" "$work/streamdac/"
done
for folder in frontends protocols training; do ln -s "$root/$folder" "$work/streamdac/$folder"; done
cp "$root"/streamdac/native/*.{py,cpp,h} "$work/streamdac/native/"
ln -s "$root/tests" "$root/setup.cfg" "$work/"

cd "$work/streamdac/native"
stamp=$(cd "$root" && "$python" -c 'import runpy, setuptools; setuptools.setup = lambda **_: None; print(runpy.run_path("setup.py")["build_stamp"]())')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
flags="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
    -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-psabi -Wno-missing-field-initializers
    -Wno-cast-function-type -pthread"
printf '#define STREAMDAC_BUILD_STAMP "%s"\n' "$stamp" > "$work/stamp.h"
printf '%s\0' *.cpp | xargs -0 -P "$(nproc)" -I{} "$cxx" $flags -include "$work/stamp.h" -I"$include" -c {} -o {}.o
"$cxx" -shared $flags ./*.o -o "_native$suffix"

cd "$work"
export LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONDONTWRITEBYTECODE=1 STREAMDAC_MOST_EXAMPLES=${STREAMDAC_MOST_EXAMPLES:-5} STREAMDAC_BUILT_IN=$work
"$python" -c '
import os
from streamdac import native
assert native.available(), native.why_not()
assert native.kernels().__file__.startswith(os.environ["STREAMDAC_BUILT_IN"]), native.kernels().__file__'
# What a sanitizer says goes past pytest: it ends the process there and then.
"$python" -m pytest -q --capture=sys -p no:cacheprovider --ignore tests/native/test_bench.py tests/native "$@"
