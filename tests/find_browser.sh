#!/bin/sh
# The browser tests need Chromium: take the one on the PATH, else install Debian's package when this machine lets us.
# Its shell without a window comes first: it does a quarter less work per page.
set -e
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then as=""; else as="sudo -n"; fi
    echo "installing chromium for the browser tests"
    $as apt-get update -qq || exit 1
    for package in chromium-headless-shell chromium; do
        $as apt-get install -y -qq --no-install-recommends $package >/dev/null && exit 0
    done
fi
echo "The browser tests need Chromium: install it (Debian: apt-get install chromium) and run make test again." >&2
exit 1
