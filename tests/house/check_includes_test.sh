#!/usr/bin/env bash
# Plants one violation at a time in a small tree and expects check_includes.sh to name it.
set -euo pipefail

check=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/check_includes.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

# A tree in which everything is as it should be.
plant_good_tree() {
  rm -rf "${tree:?}"/*
  mkdir -p "$tree"/{plugin/{loader,threading,convert},datasets,samplers,scripts,tests}
  cd "$tree"
  printf '#include <torch/torch.h>\n#include <torchfeed/plugin/errors.h>\n#include <torchfeed/plugin/loader/ring.h>\n' >plugin/data_loader.h
  printf '#include <string>\n' >plugin/errors.h
  printf '#include <torchfeed/plugin/data_loader.h>\n#include <torchfeed/datasets/table.h>\n' >plugin/torchfeed.h
  printf '#include <atomic>\n' >plugin/loader/ring.h
  printf '#include <torchfeed/plugin/errors.h>\n#include <torchfeed/plugin/threading/cores.h>\n#include <boost/interprocess/mapped_region.hpp>\nint pid = fork();\n' >plugin/loader/ring.cpp
  printf '#include <vector>\n' >plugin/threading/cores.h
  printf '#include <hwloc.h>\n#include <torchfeed/plugin/threading/cores.h>\n' >plugin/threading/cores.cpp
  printf '#include <dnnl.hpp>\n' >plugin/convert/convert.cpp
  printf '#include <torchfeed/plugin/data_loader.h>\n// a fork() here would be wrong\n' >datasets/table.h
  printf '#include <torchfeed/datasets/table.h>\n#include <torchfeed/samplers/shuffle.h>\n' >datasets/financial_data_loader.h
  printf '#include <torchfeed/plugin/errors.h>\nconst char* text = "fork()"; thread.fork(); unfork();\n' >samplers/shuffle.h
  printf '#include <torchfeed/torchfeed.h>\n#include "options.h"\n' >scripts/program.cpp
  printf '#include <hwloc.h>\n#include <torchfeed/plugin/loader/ring.h>\nint pid = fork();\n' >tests/ring_test.cpp
}

# expect FILE LINE MESSAGE: with the line added to the file, the check fails with the message.
expect() {
  local output
  plant_good_tree
  echo "$2" >>"$1"
  if output=$("$check" "$tree"); then
    echo "not found: '$2' in $1"
    failures=$((failures + 1))
  elif [[ $output != *"$1"*"$3"* ]]; then
    echo "'$2' in $1: expected a message with '$3', got: $output"
    failures=$((failures + 1))
  fi
}

plant_good_tree
"$check" "$tree" || {
  echo "a tree with nothing forbidden should pass"
  failures=1
}
expect plugin/errors.h '#include <torchfeed/datasets/table.h>' 'may not include'
expect plugin/errors.h '#include <torchfeed/torchfeed.h>' 'may not include'
expect plugin/errors.h '#include <torchfeed/plugin/gone.h>' 'no file here'
expect plugin/errors.h '#include <boost/optional.hpp>' 'public header'
expect plugin/loader/ring.h '#include <hwloc.h>' 'only plugin/threading/'
expect plugin/data_loader.h '#  include <dnnl.h>' 'public header'
expect plugin/data_loader.h '#include "errors.h"' 'write the include as'
expect plugin/loader/ring.cpp '#include <torchfeed/plugin/data_loader.h>' 'a circle'
expect plugin/loader/ring.cpp '#include <torchfeed/plugin/torchfeed.h>' 'may not include'
expect plugin/loader/ring.cpp '#include <torchfeed/datasets/table.h>' 'may not include'
expect plugin/threading/cores.cpp '#include <torchfeed/plugin/loader/ring.h>' 'may not include'
expect plugin/threading/cores.cpp '#include <torchfeed/plugin/errors.h>' 'may not include'
expect plugin/convert/convert.cpp '#include <torchfeed/plugin/threading/cores.h>' 'may not include'
expect datasets/table.h '#include <torchfeed/plugin/loader/ring.h>' 'may not include'
expect datasets/table.h '#include <torchfeed/samplers/shuffle.h>' 'may not include'
expect samplers/shuffle.h '#include <torchfeed/datasets/table.h>' 'may not include'
expect datasets/table.h '#include <boost/interprocess/file_mapping.hpp>' 'only plugin/loader/'
expect scripts/program.cpp '#include <dnnl.hpp>' 'only plugin/convert/'
expect scripts/program.cpp 'if (::fork() == 0) {}' 'only plugin/loader/ forks'
expect plugin/threading/cores.cpp 'syscall(SYS_futex, x);' 'futexes'

# A public header is told even where another header in between needs the library.
plant_good_tree
echo '#include <boost/interprocess/mapped_region.hpp>' >>plugin/loader/ring.h
output=$("$check" "$tree") && output=passed
if [[ $output != *'plugin/data_loader.h: a public header may not need'* ]]; then
  echo "not found: Boost behind plugin/loader/ring.h in plugin/data_loader.h, got: $output"
  failures=$((failures + 1))
fi

((failures == 0)) || exit 1
echo "every planted violation was found"
