#!/usr/bin/env bash
# Runs report_test.py with a python3 that has matplotlib, or with any; exit code 77 (skipped) where there is none.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if ! python=$("$root/scripts/find_python.sh" matplotlib) && ! python=$("$root/scripts/find_python.sh"); then
  echo "skipped: no python3"
  exit 77
fi
exec "$python" -B "$root/tests/report_test.py"
