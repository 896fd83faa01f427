#!/usr/bin/env bash
# Sets up, builds and runs the tests.
set -euo pipefail

usage() {
  cat <<'END'
usage: scripts/test.sh [--preset release|debug|asan|tsan] [ctest arguments...]

Installs what is missing, builds everything and runs the tests; ends with ctest's summary and exit code.
  scripts/test.sh                    all tests, optimised, in build/
  scripts/test.sh --preset asan      all tests with AddressSanitizer, in build-asan/
  scripts/test.sh -L loader          the tests with the label loader; others: threading, data, finetune,
                                     house, bench
  scripts/test.sh -R shuffle -V      tests by name, with their output
END
}

preset=release
case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  --preset)
    if (($# < 2)); then
      usage >&2
      exit 2
    fi
    preset=$2
    shift 2
    ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/build.sh --preset "$preset"
exec ctest --preset "$preset" --parallel "$(nproc)" "$@"
