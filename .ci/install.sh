# What the run needs on a bare machine: distribution packages, the Rust toolchain, cargo's tools.

debian_packages=(
  ca-certificates gcc libc6-dev git curl python3   # build
  iproute2 nftables conntrack uidmap               # interception tests
  haproxy nginx-light libnginx-mod-stream wrk      # peers
  prometheus                                       # rules, scrapes and queries
  nghttp2-client                                   # clients
  valgrind                                         # instruction counts
  skopeo                                           # the images, read by somebody else
  containerd runc containernetworking-plugins tcpdump   # the cluster
)

install_packages() {
  local missing=() package
  for package in "${debian_packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  if [ "${#missing[@]}" -eq 0 ]; then
    echo "all there: ${debian_packages[*]}"
    return
  fi
  [ "$(id -u)" -eq 0 ] || { echo "missing, and only root can install them: ${missing[*]}"; return 1; }
  # Installing a server must not start it: the tests run their own, on their own ports.
  local guard=/usr/sbin/policy-rc.d made=
  if [ ! -e "$guard" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
    made=yes
  fi
  local status=0
  { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } \
    </dev/null >"$cache/apt.log" 2>&1 || status=$?
  [ -z "$made" ] || rm -f "$guard"
  [ "$status" -eq 0 ] || tail -20 "$cache/apt.log"
  return "$status"
}
export DEBIAN_FRONTEND=noninteractive

# The pinned toolchain, under its own name or, where it cannot be fetched, as the installed `stable`
# when that is the very same version.
pick_toolchain() {
  local pinned
  pinned=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
  if ! rustup run "$pinned" rustc --version >/dev/null 2>&1; then
    if rustup run stable rustc --version 2>/dev/null | grep -q "^rustc $pinned "; then
      export RUSTUP_TOOLCHAIN=stable
    else
      rustup toolchain install "$pinned" --profile minimal --component rustfmt,clippy
    fi
  fi
  rustc --version
  cargo clippy --version
  have go || { echo "Go is needed to build SPIRE and the go-spiffe peers"; return 1; }
  go version
}

# cargo_tool NAME VERSION: builds a cargo subcommand once, into the cache.
cargo_tool() {
  local root=$cache/tools/$1-$2
  if [ ! -x "$root/bin/$1" ]; then
    # Not in this workspace's target folder, and not with its flags.
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --root "$root" "$1@$2"
  fi
  export PATH=$root/bin:$PATH
  echo "$1 $2"
}
