#!/usr/bin/env bash
# Builds and runs the benchmarks and makes a report with plots: which loader and which setting is fastest here.
set -euo pipefail

usage() {
  cat <<'END_OF_USAGE'
usage: scripts/compare.sh [--quick] [--resume] [--only PART]... [--list] [--output DIR] [--no-install]

Measures torchfeed beside torch::data and Python's DataLoader on this machine, and makes build/report/report.html:
tables and plots in one file, for any browser. Takes about a quarter of an hour on 2 cores with the build; leave the
machine alone meanwhile.

  --quick       a look in three minutes: one short run of each setting, so figures are rough
  --resume      keep the parts that an earlier run with the same options has finished
  --only PART   measure this part alone, beside what is there; may be given again. Parts: see --list
  --list        print the parts
  --output DIR  in place of build/report
  --no-install  install nothing for the report; without Python's PyTorch or matplotlib it goes without them

As root it installs what is missing (scripts/setup.sh --with-report): Python's PyTorch, to compare with, and matplotlib.
A part that fails is told in the report and does not stop the others; the exit code is 1 then.
END_OF_USAGE
}

say() { echo "compare: $*"; }
fail() {
  echo "compare: error: $*" >&2
  exit 2
}

workloads=(windows windows_batch images images_converter burn wait tail noop)
parts=("${workloads[@]/#/loader_}" loader_steps python_loader python_waits python_steps
  python_sizes loader_micro converter_micro parallel_map_micro optimizer_gain threads csv_bench)

quick=false resume=false install=true output='' only=()
while (($#)); do
  case $1 in
    --quick) quick=true ;;
    --resume) resume=true ;;
    --no-install) install=false ;;
    --list)
      printf '%s\n' "${parts[@]}"
      exit
      ;;
    --only | --output)
      (($# > 1)) || fail "$1 needs a value"
      if [[ $1 == --output ]]; then
        output=$2
      else
        [[ " ${parts[*]} " == *" $2 "* ]] || fail "no part '$2': expected one of ${parts[*]}"
        only+=("$2")
      fi
      shift
      ;;
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
[[ -z $output ]] || output=$(realpath -m "$output")
[[ ${PYTHON:-} != */* ]] || export PYTHON=$(realpath -s "$PYTHON")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=${output:-$PWD/build/report}
bin=$PWD/build/bin

if $install; then
  ./scripts/setup.sh --with-report || say "going on without what is missing for the report"
fi
./scripts/build.sh loader_bench loader_micro converter_micro parallel_map_micro optimizer_gain csv_bench
report_python=$(./scripts/find_python.sh matplotlib || ./scripts/find_python.sh) ||
  fail "the report needs a python3 (Debian: python3-matplotlib)"
torch_python=$(./scripts/find_python.sh torch || true)
# csv_bench asks the python3 in PATH for pandas.
if pandas_python=$(./scripts/find_python.sh pandas); then
  PATH=$(dirname "$pandas_python"):$PATH
fi

# How long and how often: fast loaders, slow ones, and so on. kAuto's runs are long enough that the first 5 % of them,
# or 50 batches, are what it finds its pace in; what whole runs gave is in the figures as well.
if $quick; then
  fast=(--seconds 0.15 --auto-seconds 1 --repeats 1) slow=(--seconds 0.4 --auto-seconds 1 --repeats 1)
  python=(--seconds 0.1 --repeats 1)
  micro=(--benchmark_min_time=0.02) gain=(--rounds 1 --seconds 0.1) threads=0.1 csv=(--megabytes 30 --repeats 1)
else
  fast=(--seconds 0.4 --auto-seconds 3 --repeats 3) slow=(--seconds 0.5 --auto-seconds 1.5 --repeats 3)
  python=(--seconds 0.2 --repeats 3)
  micro=(--benchmark_min_time=0.1 --benchmark_repetitions=3) gain=(--rounds 3 --seconds 0.25) threads=0.2
  csv=(--megabytes 400 --repeats 3 --pandas-repeats 1)
fi
logs=$output/logs ledger=$output/parts.tsv
mkdir -p "$logs"
if ! $resume && ((${#only[@]} == 0)); then
  rm -f "$ledger" "$logs"/*.log
  for part in "${parts[@]}"; do
    rm -f "$output/$part".{json,txt}{,.partial}
  done
fi

# measure_threads SECONDS: how long training steps take by number of threads, three times in turn.
# shellcheck disable=SC2317
measure_threads() {
  local cores logical counts repeat model count result
  logical=$(nproc)
  cores=$(lscpu --parse=CORE,SOCKET,ONLINE | grep -v '^#' | sort -u | wc -l)
  ((cores <= logical)) || cores=$logical
  counts=$(printf '%s\n' 1 "$cores" "$logical" $((2 * logical)) | sort -nu)
  for ((repeat = 0; repeat < 3; ++repeat)); do
    for model in mlp conv gru; do
      for count in $counts; do
        result=$(OMP_NUM_THREADS=$count "$bin/optimizer_gain" --measure "$model" default "$1" 0) || return
        echo "$model $count ${result%% *}"
      done
    done
  done
}

# shellcheck disable=SC2054  # lists in one argument
# The command of a part, in `command`; where its figures go, in `file`. %FILE stands for a file not yet whole.
command_of() {
  local bench=("$bin/loader_bench" --loaders 'torchfeed,torch_data' --json %FILE)
  local python_loader=("$torch_python" "$PWD/benchmarks/python_loader.py" "${python[@]}" --json %FILE)
  file=$1.json
  case $1 in
    loader_wait)
      command=("${bench[@]}" "${slow[@]}" --workloads wait --modes process,thread --workers 0,2,4,8,16,auto)
      ;;
    loader_burn) command=("${bench[@]}" "${slow[@]}" --workloads burn --modes process,thread --workers 0,1,2,4,auto) ;;
    loader_tail)
      command=("${bench[@]}" "${slow[@]}" --workloads tail --workers 0,2,4,16,auto --in-order true,false)
      ;;
    loader_steps) command=("${bench[@]}" "${slow[@]}" --workloads images --workers 0,2,auto --step-ms 1,2,5,10) ;;
    *_micro)
      command=("$bin/$1" "${micro[@]}" --benchmark_out_format=json --benchmark_out=%FILE)
      # These repeat by themselves, in turn with what they compare with.
      [[ $1 != converter_micro ]] || command+=(--benchmark_filter=images_to_planes --benchmark_repetitions=1 --benchmark_min_time=0.05)
      [[ $1 != parallel_map_micro ]] || command+=(--benchmark_filter=speed_up/compute)
      ;;
    loader_*)
      command=("${bench[@]}" "${fast[@]}" --workloads "${1#loader_}" --modes process,thread --workers 0,1,2,4,auto)
      ;;
    python_loader)
      command=("${python_loader[@]}" --workloads windows,windows_batch,images,burn,noop --workers 0,1,2,4)
      ;;
    python_waits) command=("${python_loader[@]}" --workloads wait,tail --workers 0,2,4,8,16) ;;
    python_steps) command=("${python_loader[@]}" --workers 2 --workloads images --step-ms 1,2,5,10) ;;
    python_sizes)
      command=("${python_loader[@]}" --workers 1 --batch-bytes 4096,65536,1048576,16777216,33554432)
      ;;
    optimizer_gain) file=$1.txt command=("$bin/optimizer_gain" "${gain[@]}" --patience 0) ;;
    threads) file=$1.txt command=(measure_threads "$threads") ;;
    csv_bench) file=$1.txt command=("$bin/csv_bench" "${csv[@]}") ;;
  esac
}

# Prints the CPU time that others than this script and its children have taken so far, and all that there was, in ticks.
cpu_ticks() {
  local own user nice system idle wait irq softirq steal busy
  read -r _ user nice system idle wait irq softirq steal _ </proc/stat
  read -ra own </proc/$$/stat
  busy=$((user + nice + system + irq + softirq + steal))
  echo $((busy - own[13] - own[14] - own[15] - own[16])) $((busy + idle + wait))
}

# Runs a part and notes in the ledger how it went.
run_part() {
  local name=$1 number=$2 begin=$SECONDS status=0 command file line before after others
  command_of "$name"
  if [[ $name == python_* && -z $torch_python ]]; then
    say "[$number/${#chosen[@]}] $name: skipped, no python3 here has PyTorch; Debian's is python3-torch"
    return
  fi
  line="${command[*]}"
  line=${line//"$PWD/"/}
  if $resume && [[ -s $output/$file ]] && awk -F '\t' -v name="$name" -v line="${line//\\/\\\\}" \
    '$1 == name {done = ($2 == 0 && $5 == line)} END {exit !done}' "$ledger" 2>/dev/null; then
    say "[$number/${#chosen[@]}] $name: done before"
    return
  fi
  say "[$number/${#chosen[@]}] $name"
  local partial=$output/$file.partial
  read -ra before < <(cpu_ticks)
  if [[ $file == *.txt ]]; then
    "${command[@]}" >"$partial" 2>"$logs/$name.log" || status=$?
  else
    "${command[@]/\%FILE/"$partial"}" >"$logs/$name.log" 2>&1 || status=$?
    sed -n "s/^  \(torchfeed's best.*\)/    \1/p" "$logs/$name.log"
  fi
  # loader_bench has whole figures too where single settings have failed.
  if ((status == 0)) || [[ ${command[0]} == */loader_bench && -s $partial ]]; then
    mv "$partial" "$output/$file"
  else
    rm -f "$output/$file"
  fi
  read -ra after < <(cpu_ticks)
  others=$(((after[0] - before[0]) * 100 / (after[1] - before[1] + 1)))
  printf '%s\t%d\t%d\t%d\t%s\n' "$name" "$status" $((SECONDS - begin)) $((others > 0 ? others : 0)) "$line" >>"$ledger"
  if ((status != 0)); then
    say "    failed with exit code $status, see $logs/$name.log"
    failed+=("$name")
  fi
}

failed=() chosen=("${only[@]}")
((${#chosen[@]} > 0)) || chosen=("${parts[@]}")
# What a benchmark that is ended leaves: csv_bench's file.
scratch=$(mktemp -d)
export TMPDIR=$scratch
trap 'rm -rf "$scratch"' EXIT
trap 'rm -f "$output"/*.partial; echo; say "interrupted: --resume goes on from here"; exit 130' INT TERM
begin=$SECONDS number=0
for part in "${chosen[@]}"; do
  run_part "$part" $((++number))
done
say "measured in $((SECONDS - begin)) s"
status=0
"$report_python" -B benchmarks/report/make_report.py "$output" || status=$?
((${#failed[@]} == 0)) || say "failed: ${failed[*]}"
exit $status
