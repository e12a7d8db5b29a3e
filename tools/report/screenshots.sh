#!/bin/sh
# Pictures of a report as people see it: wide and narrow, light and dark. Fails if the page says anything on the console.
#
#   tools/report/screenshots.sh REPORT.html [FOLDER]
#
# Needs Chromium; CHROMIUM names another program. Without one, nothing is checked, and the script says so; code 3 if it is there
# and does not run.
set -eu

page=${1:?usage: screenshots.sh REPORT.html [FOLDER]}
folder=${2:-$(dirname "$page")}
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$chromium" ]; then
    echo "skipped screenshots: there is no Chromium" >&2
    exit 0
fi
here=$(cd "$(dirname "$page")" && pwd)
name=$(basename "$page" .html)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder"

# visit URL WIDTH HEIGHT SCHEME PICTURE: what the console says is left in $work/console.
visit() {
    "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
        --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$work/profile" \
        --enable-logging=stderr --blink-settings=preferredColorScheme="$4" --window-size="$2,$3" \
        --screenshot="$5" "$1" 2>"$work/log" >/dev/null || { cat "$work/log" >&2; exit 1; }
    grep CONSOLE "$work/log" >"$work/console" || true
}

# A page that complains has to be heard, or silence proves nothing.
printf '<!DOCTYPE html><title>x</title><script>console.error("heard")</script>' >"$work/loud.html"
(visit "file://$work/loud.html" 400 300 1 "$work/loud.png") || { echo "no browser runs here" >&2; exit 3; }
grep -q heard "$work/console" || { echo "this Chromium does not report its console" >&2; exit 1; }

for width in 1280 400; do
    for scheme in light dark; do
        case $scheme in dark) setting=0 ;; *) setting=1 ;; esac
        picture="$folder/$name-$width-$scheme.png"
        visit "file://$here/$name.html" "$width" "${HEIGHT:-5200}" "$setting" "$picture"
        if [ -s "$work/console" ]; then
            echo "$page at $width, $scheme:" >&2
            cat "$work/console" >&2
            exit 1
        fi
        echo "$picture"
    done
done
