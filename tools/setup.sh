#!/usr/bin/env bash
# Installs what is missing to build (and, with "test", to run all tests): Debian packages and Python wheels.
#
#   tools/setup.sh build     compilers, libraries, libtorch
#   tools/setup.sh demo      build + what renders the corpus
#   tools/setup.sh test      demo + the peers that the tests compare with
#
# Everything that is not a Debian package is under $OVERPROOF_CACHE (default: .cache in the project). A second run
# finds its stamps and does nothing. A libtorch of your own is taken from Torch_DIR or LIBTORCH_ROOT instead of the wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:?usage: tools/setup.sh build|demo|test}
cache=${OVERPROOF_CACHE:-$PWD/.cache}
mkdir -p "$cache"
# pip unpacks gigabytes on its way: next to where they go, not in a /tmp that may be small or memory.
TMPDIR=$(mktemp -d "$cache/setup.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

say() { printf '== %s\n' "$*" >&2; }

packages=(g++ cmake ninja-build ccache git ca-certificates pkg-config python3 python3-venv
  libboost-program-options-dev libboost-math-dev libkainjow-mustache-dev libeigen3-dev libfmt-dev nlohmann-json3-dev libssl-dev libcurl4-openssl-dev libtbb-dev libpcre2-dev libutf8proc-dev libdivsufsort-dev
  libsentencepiece-dev catch2)
if [ "$level" != build ]; then
  # The corpus script names what it needs; it is the one who knows.
  read -ra corpus_needs <<<"$(sed -n 's/^NEEDS="\(.*\)"$/\1/p' tools/debian_corpus.sh)"
  packages+=("${corpus_needs[@]}")
fi
# The sanitizers and libFuzzer.
if [ "$level" = test ]; then packages+=(clang-14 libclang-rt-14-dev); fi
# Programs that verify-samples runs; without it, it refuses them.
if [ "$level" = test ]; then packages+=(bubblewrap); fi
# Shows the audit report to its tests; the smaller of Debian's two Chromiums.
if [ "$level" = test ] && ! command -v chromium >/dev/null; then packages+=(chromium-headless-shell); fi
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "these Debian packages are missing, and neither root nor sudo is available: ${missing[*]}" >&2; exit 1; }
    root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  "${root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 ||
    { tail -n 20 "$cache/apt.log" >&2; echo "apt-get failed; its whole output is in $cache/apt.log" >&2; exit 1; }
fi

venv="$cache/venv"
pip_install() {
  "$venv/bin/pip" install --no-cache-dir --quiet --disable-pip-version-check --no-input "$@" >"$cache/pip.log" 2>&1 ||
    { tail -n 20 "$cache/pip.log" >&2; echo "pip failed; its whole output is in $cache/pip.log" >&2; exit 1; }
}
# once NAME FILE COMMAND...: run the command unless it ran before with the same FILE.
once() {
  local stamp="$cache/$1.stamp" sum
  sum=$(sha256sum <"$2")
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && return 0
  say "$1"
  "${@:3}"
  printf '%s\n' "$sum" >"$stamp"
}
# pip would find out that the disk is full minutes later, and without a remedy. GB: what is unpacked at most, wheels included.
room_for() {
  local stamp="$cache/$1.stamp" needed=$2 free
  free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ -f "$stamp" ] || [ "$free" -ge "$needed" ] ||
    { echo "$cache: $free GB are free on its disk, and setting up needs $needed: make room, or name a folder of another disk in OVERPROOF_CACHE" >&2; exit 1; }
}
if [ -z "${Torch_DIR:-}${LIBTORCH_ROOT:-}" ]; then room_for "libtorch" 3; fi
if [ "$level" = test ]; then room_for "the peers that the tests compare with" 9; fi
[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv "$venv"
# The wheel's own dependencies are gigabytes of GPU libraries; libtorch_cpu needs two of them.
libtorch() { pip_install --no-deps -r tools/requirements-libtorch.txt; }
if [ -z "${Torch_DIR:-}${LIBTORCH_ROOT:-}" ]; then once "libtorch" tools/requirements-libtorch.txt libtorch; fi
jinja() {
  rm -rf "$cache/jinja-source"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-input --no-deps --no-binary llama-cpp-python --require-hashes \
    --dest "$cache/jinja-source" -r tools/requirements-jinja.txt >"$cache/pip.log" 2>&1 ||
    { tail -n 20 "$cache/pip.log" >&2; echo "pip failed; its whole output is in $cache/pip.log" >&2; exit 1; }
  "$venv/bin/python" tools/unpack_jinja.py "$cache"/jinja-source/llama_cpp_python-*.tar.gz "$cache/jinja"
  rm -rf "$cache/jinja-source"
}
# Its stamp is of the pinned version and of what is replaced in it.
cat tools/requirements-jinja.txt tools/unpack_jinja.py >"$cache/jinja.inputs"
once "the Jinja engine" "$cache/jinja.inputs" jinja
if [ "$level" = test ]; then
  peers() { pip_install -r tools/requirements-libtorch.txt -r tools/requirements-test.txt; }
  once "the peers that the tests compare with" tools/requirements-test.txt peers
  newest() { rm -rf "$cache/newest" && pip_install --no-deps --target "$cache/newest" -r tools/requirements-newest.txt; }
  once "the newest loaders" tools/requirements-newest.txt newest
  # 7.4 processor minutes. Next to the environment: the tests read it by PYTHONPATH, and its web framework changes nothing of the peers.
  server() {
    rm -rf "$cache/llama-cpp-python"
    # Not for this processor alone: with AMX, llama.cpp's own products end in an illegal instruction on some virtual machines.
    CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF" \
      pip_install --no-deps --target "$cache/llama-cpp-python" -r tools/requirements-server.txt
  }
  once "the server that scores prompts (builds for some minutes)" tools/requirements-server.txt server
fi
