#!/usr/bin/env bash
# Prints the path of a python3 that has the modules named, exit code 1 if there is none: $PYTHON, the one in PATH, Debian's.
#   scripts/find_python.sh torch numpy
set -euo pipefail

for python in "${PYTHON:-}" python3 /usr/bin/python3; do
  python=$(command -v "$python" 2>/dev/null) || continue
  if "$python" -c "import sys; list(map(__import__, sys.argv[1:]))" "$@" 2>/dev/null; then
    echo "$python"
    exit
  fi
done
exit 1
