#!/bin/sh
# Fetches documentation packages from the Debian mirrors that apt knows and renders them to plain text:
#
#   tools/debian_corpus.sh OUT
#
# writes OUT/<package>/<installed path>.txt and OUT/<package>/copyright, and last OUT/.complete with the packages' versions
# and digests. Nothing is installed; root is not needed. Same packages, same bytes: no dates, no order of arrival.
# With OUT/.complete made by these very scripts nothing is done.
set -eu

# What set-up must have installed for this script:
NEEDS="mandoc python3 dpkg apt ca-certificates"
PACKAGES="manpages manpages-dev perl-doc git-doc debian-policy bash-doc"

here=$(cd "$(dirname "$0")" && pwd)
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
case $1 in /*) out=$1 ;; *) out=$PWD/$1 ;; esac

for tool in mandoc python3 dpkg-deb apt-get; do
  command -v "$tool" >/dev/null || { echo "$0: $tool is missing; needed Debian packages: $NEEDS" >&2; exit 5; }
done

script_digest=$(cat "$here/debian_corpus.sh" "$here/debian_render.py" | sha256sum | cut -d' ' -f1)
if [ -f "$out/.complete" ] && [ "$(head -n 1 "$out/.complete")" = "scripts $script_digest" ]; then
  echo "$out is complete already"
  exit 0
fi

mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.partial.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/debs" "$work/trees" "$work/out"
chmod 755 "$work" "$work/debs"  # apt fetches as another user where it can

# As root apt warns that it fetches unsandboxed; that is of no matter here.
(cd "$work/debs" && apt-get download -qq $PACKAGES 2>apt.log) || {
  cat "$work/debs/apt.log" >&2
  echo "$0: cannot fetch the packages; 'apt-get update' may be needed first" >&2
  exit 5
}
echo "scripts $script_digest" > "$work/complete"
for package in $PACKAGES; do
  deb=$(ls "$work/debs/${package}"_*.deb)
  mkdir "$work/trees/$package"
  dpkg-deb -x "$deb" "$work/trees/$package"
  echo "$package $(dpkg-deb -f "$deb" Version) $(sha256sum "$deb" | cut -d' ' -f1)" >> "$work/complete"
done
LC_ALL=C.UTF-8 python3 "$here/debian_render.py" "$work/trees" "$work/out" $PACKAGES
mv "$work/complete" "$work/out/.complete"

rm -rf "$out"
mv "$work/out" "$out"
