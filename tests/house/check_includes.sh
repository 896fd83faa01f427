#!/usr/bin/env bash
# Fails where a folder includes what it may not, so that dependencies go one way:
#   datasets/, samplers/ -> plugin/ (its public headers) -> plugin/loader/ -> plugin/threading/
# The rules are those of check_include and check_line below.
set -euo pipefail
shopt -s nullglob globstar

if (($# != 1)); then
  echo "usage: $0 SOURCE_DIR" >&2
  exit 2
fi
cd "$1"

violations=0
report() {
  echo "$1: $2"
  violations=$((violations + 1))
}

# The torchfeed includes of a file, as paths in the tree: <torchfeed/plugin/errors.h> is plugin/errors.h.
declare -A own_includes system_includes
load() {
  local line
  while IFS= read -r line; do
    case $line in
      torchfeed/torchfeed.h) own_includes[$1]+=" plugin/torchfeed.h" ;;
      torchfeed/*) own_includes[$1]+=" ${line#torchfeed/}" ;;
      *) system_includes[$1]+=" $line" ;;
    esac
  done < <(sed -nE 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*<([^>]+)>.*/\1/p' "$1")
}

is_public_header() { [[ $1 =~ ^(plugin|datasets|samplers)/[^/]+\.h$ ]]; }

# Prints the headers that a file reaches through any number of torchfeed includes.
declare -A seen
reach() {
  local header
  for header in ${own_includes[$1]:-}; do
    [[ -z ${seen[$header]:-} ]] || continue
    seen[$header]=1
    echo "$header"
    reach "$header"
  done
}
reached_from() {
  seen=()
  reach "$1"
}

# check_include FILE HEADER: may a file of this folder include this torchfeed header?
check_include() {
  local file=$1 header=$2 allowed
  [[ -f $header ]] || report "$file" "includes <torchfeed/$header>, which is no file here"
  case $file in
    plugin/torchfeed.h) return ;;
    plugin/loader/*)
      if is_public_header "$header"; then
        # A public header may serve the loader too, as long as it does not lead back to it.
        if reached_from "$header" | grep '^plugin/loader/' >/dev/null; then
          report "$file" "includes <torchfeed/$header>, which itself needs plugin/loader/: a circle"
        fi
        [[ $header == plugin/* && $header != plugin/torchfeed.h ]] && return
      fi
      allowed='^plugin/(loader|threading)/'
      ;;
    plugin/threading/*) allowed='^plugin/threading/' ;;
    plugin/onednn/*) allowed='^plugin/onednn/' ;;
    plugin/convert/*) allowed='^plugin/(convert|onednn)/' ;;
    plugin/rnn/*) allowed='^plugin/(rnn|onednn|threading)/' ;;
    plugin/*) allowed='^plugin/' ;;
    # The one place where a dataset meets its sampler.
    datasets/financial_data_loader.h) allowed='^(plugin/[^/]+|datasets/.+|samplers/[^/]+\.h)$' ;;
    datasets/*) allowed='^(plugin/[^/]+|datasets/.+)$' ;;
    samplers/*) allowed='^(plugin/[^/]+|samplers/.+)$' ;;
    *) allowed='' ;;
  esac
  if [[ ! $header =~ $allowed ]] || [[ -n $allowed && $header == plugin/torchfeed.h ]]; then
    report "$file" "may not include <torchfeed/$header>"
  fi
}

# check_library FILE HEADER: which folders may use Boost.Interprocess, hwloc and oneDNN.
check_library() {
  local folder
  folder=$(dirname "$1")
  case $2 in
    boost/interprocess/*) [[ $folder == plugin/loader ]] || report "$1" "only plugin/loader/ uses <$2>" ;;
    hwloc.h | hwloc/*) [[ $folder == plugin/threading ]] || report "$1" "only plugin/threading/ uses <$2>" ;;
    dnnl* | oneapi/*)
      [[ $folder =~ ^plugin/(onednn|convert|rnn|threading)$ || $1 == plugin/threading_optimizer.cpp ]] ||
        report "$1" "only plugin/convert/, plugin/rnn/ and the optimizer use <$2>"
      ;;
    linux/futex.h) [[ $folder == plugin/loader ]] || report "$1" "only plugin/loader/ uses futexes" ;;
  esac
}

# Users of a public header must not need the headers of these libraries.
check_public_header() {
  local header library
  for header in "$1" $(reached_from "$1"); do
    for library in ${system_includes[$header]:-}; do
      case $library in
        boost/* | hwloc.h | hwloc/* | dnnl* | oneapi/*)
          report "$1" "a public header may not need <$library>, which $header includes"
          ;;
      esac
    done
  done
}

# What is forbidden in a line, whatever it includes; comments and strings do not count.
check_lines() {
  local line
  while IFS= read -r line; do
    report "$1:${line%%:*}" "$2"
  done < <(sed -E 's://.*$::; s/"([^"\\]|\\.)*"/""/g' "$1" | grep -nE "$3" || true)
}

files=({plugin,datasets,samplers,scripts,tests,benchmarks}/**/*.{h,cpp})
for file in "${files[@]}"; do
  load "$file"
done
for file in "${files[@]}"; do
  for header in ${own_includes[$file]:-}; do
    check_include "$file" "$header"
  done
  if is_public_header "$file"; then
    check_public_header "$file"
  fi
  case $file in
    tests/* | benchmarks/*) continue ;;
  esac
  for header in ${system_includes[$file]:-}; do
    check_library "$file" "$header"
  done
  case $file in
    plugin/loader/*) ;;
    *)
      check_lines "$file" 'only plugin/loader/ forks' '(^|[^[:alnum:]_.>])v?fork[[:space:]]*\('
      check_lines "$file" 'only plugin/loader/ uses futexes' 'SYS_futex|FUTEX_WA'
      ;;
  esac
  case $file in
    scripts/*) ;;
    *)
      check_lines "$file" 'write the include as <torchfeed/...>' '^[[:space:]]*#[[:space:]]*include[[:space:]]*"'
      ;;
  esac
done

if ((violations > 0)); then
  echo "$violations forbidden in ${#files[@]} files"
  exit 1
fi
echo "${#files[@]} files include only what their folders may"
