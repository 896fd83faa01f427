#!/usr/bin/env bash
# Installs what torchfeed needs to be built, as Debian packages. Does nothing where all of it is there.
set -euo pipefail

usage() {
  cat <<'END'
usage: scripts/setup.sh [--check] [--with-report] [--help]

Installs the compiler, CMake and the libraries that torchfeed builds with, from Debian's packages.
Where all of them are there, it says so and does nothing: no root, no network.
Without root it installs nothing, but prints the command to run, and ends with exit code 1.

  --check         only tell what is missing (exit code 1 if anything is)
  --with-report   also what scripts/compare.sh compares with and draws with: Python's PyTorch, pandas and matplotlib;
                  what of these is not to be had is told, and left out

A LibTorch of your own: set Torch_DIR or CMAKE_PREFIX_PATH to it, and Debian's is left alone:
  CMAKE_PREFIX_PATH=$HOME/libtorch scripts/setup.sh
END
}

say() { echo "setup: $*"; }
fail() {
  echo "setup: error: $*" >&2
  exit 1
}

# A program counts as there wherever it comes from; a library only as a Debian package.
programs=(g++:g++ cmake:cmake ninja:ninja-build ccache:ccache)
libraries=(libdnnl-dev libhwloc-dev libboost-dev libopenblas0-pthread libcli11-dev nlohmann-json3-dev
  zlib1g-dev libfast-float-dev libgtest-dev libgmock-dev libbenchmark-dev)
report=()

# Prints the folder of the user's own TorchConfig.cmake, if an environment variable leads to one.
own_libtorch() {
  local prefix file
  local -a prefixes
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${Torch_DIR:-}" "${Torch_ROOT:-}" "${prefixes[@]}"; do
    [[ -n $prefix ]] || continue
    for file in "$prefix"{,/Torch,/share/cmake/Torch,/lib*/cmake/Torch,/lib/*/cmake/Torch}/TorchConfig.cmake; do
      if [[ -f $file ]]; then
        dirname "$file"
        return
      fi
    done
  done
}

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

check_only=false
while (($#)); do
  case $1 in
    --check) check_only=true ;;
    --with-report) report=(python3-torch python3-pandas python3-matplotlib) ;;
    -h | --help)
      usage
      exit
      ;;
    *)
      usage >&2
      fail "unknown argument '$1'"
      ;;
  esac
  shift
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  fail "this system has no apt: install these yourself, then build with CMake: GCC 12 or Clang 16 or newer," \
    "CMake 3.25 or newer, Ninja, LibTorch 1.13.1 or newer, oneDNN, hwloc, Boost 1.74 or newer, CLI11," \
    "nlohmann-json, zlib, GoogleTest with GoogleMock, Google Benchmark (OpenBLAS, fast_float and ccache are welcome)"
fi

torch_dir=$(own_libtorch)
if [[ -n $torch_dir ]]; then
  say "using the LibTorch in $torch_dir"
else
  libraries+=(libtorch-dev)
  for variable in Torch_DIR CMAKE_PREFIX_PATH; do
    [[ -z ${!variable:-} ]] || say "no TorchConfig.cmake under $variable=${!variable}: taking Debian's LibTorch"
  done
fi

missing=() wanted=()
for pair in "${programs[@]}"; do
  command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
for package in "${libraries[@]}"; do
  installed "$package" || missing+=("$package")
done

for package in "${report[@]}"; do
  installed "$package" || wanted+=("$package")
done

all=("${missing[@]}" "${wanted[@]}")
if ((${#all[@]} == 0)); then
  say "everything is there"
  exit
fi

install=(apt-get install -y --no-install-recommends)
if $check_only; then
  say "missing: ${all[*]}"
  exit 1
fi
if ((EUID != 0)); then
  say "missing: ${all[*]}"
  fail "installing needs root: ask an administrator to run" $'\n  ' "${install[*]} ${all[*]}"
fi

export DEBIAN_FRONTEND=noninteractive
say "updating the package lists"
# Without Error-Mode, apt-get update exits with 0 where a mirror cannot be reached.
hint="try 'apt-get -f install'"
if ! apt-get update -qq -o APT::Update::Error-Mode=any; then
  say "'apt-get update' failed: going on with the package lists that are there"
  hint="'apt-get update' had failed before: check the network and the files in /etc/apt/sources.list*"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
installs() { "${install[@]}" "$@" -qq -o Dpkg::Use-Pty=0 >"$log" 2>&1; }
if ((${#missing[@]} > 0)); then
  say "installing ${missing[*]}"
  if ! installs "${missing[@]}"; then
    tail -n 20 "$log" >&2
    fail "'${install[*]} ${missing[*]}' failed. $hint, then run scripts/setup.sh again"
  fi
fi
for package in "${wanted[@]}"; do
  say "installing $package"
  installs "$package" || say "$package is not to be had: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
done
say "done"
