#!/usr/bin/env bash
# Sets up, configures and builds; scripts/test.sh and scripts/finetune.sh begin with it.
set -euo pipefail

usage() {
  cat <<'END'
usage: scripts/build.sh [--preset release|debug|asan|tsan|tidy] [--jobs N] [target...]

Installs what is missing (scripts/setup.sh), then configures and builds the targets, or everything.
The release preset (the default) builds in build/, the others in build-PRESET/; programs are in bin/ there.
Runs as many compilers as there are cores, but no more than memory allows at 2 GB each.
END
}

fail() {
  echo "build: error: $*" >&2
  exit 2
}

preset=release jobs=''
while (($#)); do
  case $1 in
    --preset | --jobs)
      (($# > 1)) || fail "$1 needs a value"
      [[ $1 == --preset ]] && preset=$2 || jobs=$2
      shift
      ;;
    -h | --help)
      usage
      exit
      ;;
    -*)
      usage >&2
      fail "unknown option '$1'"
      ;;
    *) break ;;
  esac
  shift
done
case $preset in
  release | debug | asan | tsan | tidy) ;;
  *) fail "no preset '$preset': expected release, debug, asan, tsan or tidy" ;;
esac

# Cores, or one for each 2 GB of memory, where a container's limit counts too.
parallel_jobs() {
  local cores kilobytes limit
  cores=$(nproc)
  kilobytes=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [[ $limit != max ]] && ((limit / 1024 < kilobytes)); then
    kilobytes=$((limit / 1024))
  fi
  local fitting=$((kilobytes / 2000000))
  ((fitting >= 1)) || fitting=1
  echo $((cores < fitting ? cores : fitting))
}

# A LibTorch of the user's own: CMake would stay with the one that it found before.
configure=(cmake --preset "$preset")
if [[ -n ${Torch_DIR:-}${CMAKE_PREFIX_PATH:-} ]]; then
  configure+=(--fresh)
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh
# CMake's messages are worth reading only when it fails.
if ! log=$("${configure[@]}" 2>&1); then
  echo "$log" >&2
  fail "could not configure, see above; after a change of LibTorch or compiler remove the build folder"
fi
grep -A 4 '^CMake.*Warning' <<<"$log" >&2 || true
echo "build: building preset $preset"
cmake --build --preset "$preset" --parallel "${jobs:-$(parallel_jobs)}" ${1:+--target "$@"}
