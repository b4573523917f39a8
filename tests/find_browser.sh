#!/bin/sh
# The browser tests need Chromium: take the one on the PATH, else install Debian's package when this machine lets us.
set -e
for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then as=""; else as="sudo -n"; fi
    echo "installing chromium for the browser tests"
    $as apt-get update -qq && $as apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit 0
fi
echo "The browser tests need Chromium: install it (Debian: apt-get install chromium) and run make test again." >&2
exit 1
