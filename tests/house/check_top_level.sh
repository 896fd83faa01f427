#!/usr/bin/env bash
# Fails where the top level holds anything but its fixed names: all else finds a room in one of the folders.
set -euo pipefail
shopt -s dotglob nullglob
cd "$1"

status=0
for name in *; do
  case $name in
    CMakeLists.txt | CMakePresets.json | LICENSE | README.md) ;;
    plugin | datasets | samplers | scripts | tests | benchmarks) ;;
    .git | .gitignore | .gitattributes | .ci | .clang-format | .clang-tidy) ;;
    build | build-* | out | .cache | compile_commands.json | CMakeUserPresets.json) ;; # see .gitignore
    *)
      echo "$name: not one of the top level's names"
      status=1
      ;;
  esac
done
exit $status
