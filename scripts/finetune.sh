#!/usr/bin/env bash
# Sets up, builds and runs finetune with the arguments given, see scripts/finetune.sh --help.
# Without a --model it fine-tunes the model of the S&P 500's volatility that comes with torchfeed; other arguments change
# that job (--resume goes on with it).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/build.sh" finetune >&2
own_model=false own_data=false
for argument in "$@"; do
  [[ $argument != --model && $argument != --model=* ]] || own_model=true
  [[ $argument != --data && $argument != --data=* ]] || own_data=true
done
if ! $own_model; then
  # In front, as finetune takes the last value of an option that is given twice. Data is the exception: it takes all.
  # The dates are those of the data that comes with torchfeed, not of the caller's.
  $own_data || set -- --data "$root/datasets/data/sp500.csv" --from 2010-01-01 --to 2020-04-17 "$@"
  set -- --model "$root/datasets/data/base_gru.pt" --output "$root/build/finetune" "$@"
fi
# Relative paths in the arguments are the caller's: the folder has not been changed. Signals go to finetune.
exec "$root/build/bin/finetune" "$@"
