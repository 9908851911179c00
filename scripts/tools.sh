#!/usr/bin/env bash
# Bring the real programs that the demo and the tests run: OpenSSH, plink, dbclient, rsync, mosh, git, Redis, PostgreSQL,
# Chromium, libnss_wrapper.
#
#   scripts/tools.sh ssh    what the demo needs
#   scripts/tools.sh        everything
#
# What the machine has is used. What it lacks is unpacked into .tools and never installed: an installed server package
# starts its service and enables it at boot, an unpacked one is only a file. Nothing outside .tools is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

any() { # any PATTERN…: whether one of them is a file
  local path
  for path in "$@"; do [ -e "$path" ] && return 0; done
  return 1
}

has_program() { command -v "$1" >/dev/null || any "/usr/sbin/$1" .tools/usr/bin/"$1" .tools/usr/sbin/"$1"; }

has_postgres() { # the whole server: initdb without postgres would be of no use
  local name
  for name in initdb postgres; do
    has_program "$name" || any /usr/lib/postgresql/*/bin/"$name" .tools/usr/lib/postgresql/*/bin/"$name" || return 1
  done
}

has_nss_wrapper() { any {,.tools}/usr/lib{,64}{,/*-linux-*}/libnss_wrapper.so; }

has_chromium() { any {,.tools}/usr/lib/chromium/chromium{-headless-shell,}; } # in /usr/bin there are only scripts

has_fonts() { any {,.tools}/usr/share/fonts/truetype/*/*.ttf; }

missing_packages() { # missing_packages ssh|all: Debian's names of what is not here yet
  has_program ssh && has_program ssh-keygen || echo openssh-client
  has_program sshd || echo openssh-server
  has_nss_wrapper || echo libnss-wrapper
  [ "$1" = ssh ] && return
  has_program redis-server || echo redis-server
  has_postgres || echo postgresql
  has_program plink || echo putty-tools
  has_program dbclient || echo dropbear-bin
  has_program rsync || echo rsync
  has_program mosh || echo mosh
  has_program git || echo git
  has_chromium || echo chromium-headless-shell
  has_fonts || echo fonts-dejavu-core
}

what="${1:-all}"
mapfile -t missing < <(missing_packages "$what")
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  echo "make tools: this machine lacks what Debian calls ${missing[*]}, and has no apt-get to fetch it with;" \
    "install it with your package manager, then run make again." >&2
  exit 1
fi

mkdir -p .tools
exec 9>.tools/lock
flock 9 # a second `make` waits here for the first, and then finds its work done
mapfile -t missing < <(missing_packages "$what")
[ ${#missing[@]} -eq 0 ] && exit 0

work="$(mktemp -d)"
trap 'rm -rf "$work" .tools/tree.new .tools/usr.new' EXIT
mkdir -p "$work/debs/partial" "$work/lists/partial" "$work/empty"

# Its own cache and no locks, so that an ordinary user can do it and a running apt is not disturbed. The sandbox user
# _apt could not write into our folders; signatures are checked all the same.
apt() {
  apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User= -o Dir::Cache="$work" -o Dir::Cache::archives="$work/debs" "$@"
}
download() { apt -y --no-install-recommends --download-only "$@" install "${missing[@]}" </dev/null >"$work/log" 2>&1; }

echo "Fetching ${missing[*]} into .tools (nothing is installed, nothing is started)"
if ! download; then # no package lists, or old ones: fetch fresh ones for ourselves
  private=(-o Dir::State::lists="$work/lists")
  apt "${private[@]}" update </dev/null >>"$work/log" 2>&1 || true # one broken third-party source is no reason to stop
  if ! download "${private[@]}"; then
    cat "$work/log" >&2
    echo "make tools: apt-get could not fetch ${missing[*]}; its own words are above." >&2
    exit 1
  fi
fi

rm -rf .tools/tree.new
mkdir -p .tools/tree.new
[ -d .tools/usr ] && cp -a .tools/usr/. .tools/tree.new/
mkdir "$work/root"
for deb in "$work"/debs/*.deb; do
  case "${deb##*/}" in libc6_* | libc-bin_*) continue ;; esac # another libc than the loader's would crash every program
  dpkg -x "$deb" "$work/root"
done
for part in bin sbin lib; do # packages from before the /usr merge
  [ -d "$work/root/$part" ] && [ ! -L "$work/root/$part" ] && mkdir -p "$work/root/usr/$part" &&
    cp -a "$work/root/$part/." "$work/root/usr/$part/"
done
cp -a "$work/root/usr/." .tools/tree.new/
chmod 755 .tools .tools/tree.new # servers that refuse to be root run as somebody who must read this

# One rename makes all of it appear at once; an interrupted run leaves the old state.
tree="tree-$(date +%s)-$$"
mv .tools/tree.new ".tools/$tree"
ln -sfn "$tree" .tools/usr.new
mv -T .tools/usr.new .tools/usr
find .tools -maxdepth 1 -name 'tree-*' ! -name "$tree" -exec rm -rf {} +

mapfile -t missing < <(missing_packages "$what")
if [ ${#missing[@]} -gt 0 ]; then
  echo "make tools: the packages came, but ${missing[*]} did not bring its programs; is this a Debian or Ubuntu?" >&2
  exit 1
fi
