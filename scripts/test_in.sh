#!/usr/bin/env bash
# Runs the tests in a fresh Debian of another suite, so with another LibTorch, compiler and CMake.
set -euo pipefail

usage() {
  cat <<'END'
usage: scripts/test_in.sh [--fresh] [--keep] [--mirror URI] [--shell] SUITE [test.sh arguments...]

Builds and tests the working tree in a minimal Debian of the suite bookworm (LibTorch 1.13.1),
trixie (2.6) or forky (2.14.1), made with debootstrap, as on a new machine: scripts/test.sh runs in it.
Ends with ctest's summary and its exit code. Needs root, for chroot.

  --fresh        make the Debian anew instead of using the one of an earlier run
  --keep         keep the build folder of the earlier run, so that only changes are compiled
  --mirror URI   take packages from there (default: the mirror that this machine uses)
  --shell        open a shell in it, in the tree, instead of running the tests

The Debian is kept in ${XDG_CACHE_HOME:-$HOME/.cache}/torchfeed/SUITE, compiler results in ccache beside it.
END
}

say() { echo "test_in: $*"; }
fail() {
  echo "test_in: error: $*" >&2
  exit 2
}

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fresh=false keep=false shell=false mirror='' suite=''
args=("$@")
while (($#)); do
  case $1 in
    --fresh) fresh=true ;;
    --keep) keep=true ;;
    --shell) shell=true ;;
    --mirror)
      (($# > 1)) || fail "--mirror needs a URI"
      mirror=$2
      shift
      ;;
    -h | --help)
      usage
      exit
      ;;
    bookworm | trixie | forky)
      suite=$1
      shift
      break
      ;;
    *)
      usage >&2
      fail "unknown argument '$1'"
      ;;
  esac
  shift
done
[[ -n $suite ]] || {
  usage >&2
  fail "which suite?"
}
((EUID == 0)) || fail "chroot needs root: run 'sudo scripts/test_in.sh ${args[*]}'"

# Mounts and processes live in namespaces of their own, so nothing is left of them however this script ends.
if [[ ${TORCHFEED_IN_NAMESPACE:-} != 1 ]]; then
  exec env TORCHFEED_IN_NAMESPACE=1 unshare --mount --pid --fork --kill-child "${BASH_SOURCE[0]}" "${args[@]}"
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/torchfeed
root=$cache/$suite
tree=$root/root/torchfeed
mkdir -p "$cache/ccache"
exec 9>"$cache/$suite.lock"
flock --nonblock 9 || fail "another test_in.sh is running in $root"

# The Debian mirror in this machine's own apt sources, or Debian's default.
find_mirror() {
  local id='' codename='' uri=''
  if command -v apt-get >/dev/null && [[ -r /etc/os-release ]]; then
    # shellcheck disable=SC1091
    read -r id codename < <(. /etc/os-release && echo "${ID:-} ${VERSION_CODENAME:-sid}")
    if [[ $id == debian ]]; then
      # shellcheck disable=SC2016
      uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v codename="$codename" '$2 == codename && $3 == "main" && !found++ {print $1}')
    fi
  fi
  echo "${uri:-http://deb.debian.org/debian}"
}

make_root() {
  local partial=$root.partial script_args=() options
  mirror=${mirror:-$(find_mirror)}
  if ! command -v debootstrap >/dev/null; then
    say "installing debootstrap"
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends debootstrap >/dev/null ||
      fail "could not install debootstrap"
  fi
  # An older debootstrap knows no newer suite; sid's script serves all of them.
  [[ -e /usr/share/debootstrap/scripts/$suite ]] || script_args=("$mirror" sid)
  options=(--variant=minbase)
  [[ ! -r /usr/share/keyrings/debian-archive-keyring.gpg ]] ||
    options+=(--keyring=/usr/share/keyrings/debian-archive-keyring.gpg)
  say "making Debian $suite in $root"
  rm -rf --one-file-system "$root" "$partial"
  if ! debootstrap "${options[@]}" "$suite" "$partial" "${script_args[@]:-$mirror}" >"$cache/$suite.log" 2>&1; then
    tail -n 20 "$cache/$suite.log" >&2
    fail "debootstrap failed, see $cache/$suite.log; does the mirror have $suite? --mirror names another"
  fi
  echo "deb $mirror $suite main" >"$partial/etc/apt/sources.list"
  rm -f "$partial"/etc/apt/sources.list.d/*
  mv "$partial" "$root"
}

# What this machine needs to reach its mirror: proxy, clock and retry settings.
configure_network() {
  if command -v apt-config >/dev/null; then
    apt-config dump | grep -E '^Acquire::([a-z]+::Proxy|Check-|Retries)' >"$root/etc/apt/apt.conf.d/90host" || true
  fi
  cp --dereference --remove-destination /etc/resolv.conf /etc/hosts "$root/etc/"
}

mount_system() {
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  mkdir -p "$root/var/cache/ccache"
  mount --bind "$cache/ccache" "$root/var/cache/ccache"
}

# The working tree as it is: what git tracks and what it does not ignore.
copy_tree() {
  local new=$tree.new file
  rm -rf "$new"
  mkdir -p "$new"
  (cd "$source_dir" && git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [[ ! -e $file && ! -L $file ]] || printf '%s\0' "$file"; done |
    tar --create --no-recursion --null --files-from=-) | tar --extract --touch --directory "$new"
  chown -R 0:0 "$new"
  if $keep && [[ -d $tree ]]; then
    # Unchanged files keep the time that the build knows. The times of the originals would not do: a file may have been
    # changed while an earlier copy of it was compiled.
    (cd "$new" && find . -type f -print0) | while IFS= read -r -d '' file; do
      ! cmp --silent "$new/$file" "$tree/$file" || touch --reference="$tree/$file" "$new/$file"
    done
    find "$tree" -mindepth 1 -maxdepth 1 -name 'build*' -exec mv -t "$new" {} +
  fi
  rm -rf "$tree"
  mv "$new" "$tree"
}

in_root() {
  local -a environment=(HOME=/root USER=root LANG=C.UTF-8 TERM="${TERM:-dumb}"
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin CCACHE_DIR=/var/cache/ccache)
  local variable
  for variable in http_proxy https_proxy no_proxy OPENBLAS_CORETYPE OPENBLAS_L2_SIZE; do
    [[ -z ${!variable:-} ]] || environment+=("$variable=${!variable}")
  done
  chroot "$root" env -i "${environment[@]}" bash -c 'cd /root/torchfeed && "$@"' bash "$@"
}

if $fresh || [[ ! -d $root ]]; then
  make_root
fi
configure_network
mount_system
copy_tree
if $shell; then
  in_root bash
else
  say "running scripts/test.sh in Debian $suite"
  status=0
  in_root ./scripts/test.sh "$@" || status=$?
  say "Debian $suite: exit code $status"
  exit $status
fi
