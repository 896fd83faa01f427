#!/usr/bin/env bash
# Fails where clang-format would change a file. Versions differ, so only version 14 judges; 77 tells ctest to skip.
set -euo pipefail
shopt -s globstar nullglob
cd "$1"

for formatter in clang-format-14 clang-format; do
  if command -v "$formatter" >/dev/null && [[ $("$formatter" --version) == *"version 14."* ]]; then
    "$formatter" --dry-run --Werror {plugin,datasets,samplers,scripts,tests,benchmarks}/**/*.{h,cpp}
    exit
  fi
done
echo "skipped: no clang-format 14 here"
exit 77
