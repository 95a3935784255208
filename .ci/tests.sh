# What runs the code: real peers, the test suite, the demo.

# The target folder outlives the clone; a changed lock file or compiler starts a new one.
use_target_folder() {
  export CARGO_TARGET_DIR=$cache/target-$(key Cargo.lock .cargo/config.toml)
  mkdir -p "$CARGO_TARGET_DIR"
  touch "$CARGO_TARGET_DIR"
  prune 'target-*' 2
}

build_peers() {
  TEST_PEERS=$(testkit/peers/build)
  export TEST_PEERS
  ls "$TEST_PEERS"
}

# The whole product on a real node. Three at a time: most of a scenario is waiting for the kubelet.
run_cluster() {
  cargo test --workspace --locked --test cluster -- --test-threads 3
}

# The compiled matcher against one written from the meaning of the language alone: a million pairs of
# policy and request, where the ordinary test makes a few hundred.
run_policy_proof() {
  TEST_PROPTEST_CASES=62500 cargo test --release --locked -p mantlet-policy --test properties the_matcher
}

# The quick start: a development authority, two sidecars, one allow, one deny, a rotation.
run_demo() {
  cargo run --release --locked -- demo --once
}

# Every pair of the bench can be measured; the figures of such a short run mean nothing.
run_bench_smoke() {
  cargo build --release --locked -p mantlet-proxy
  cargo build --release --locked -p mantlet-bench
  "$CARGO_TARGET_DIR/release/mantlet-bench" --smoke --mantlet "$CARGO_TARGET_DIR/release/mantlet-proxy"
}

# The stripped sidecar is at most 8 MB: it is pulled and kept in memory once for each pod (docs/adr/0018).
check_program_size() {
  local most=8000000 size
  size=$(stat -c %s "$CARGO_TARGET_DIR/release/mantlet-proxy")
  echo "mantlet-proxy: $size bytes of at most $most"
  [ "$size" -le "$most" ]
}

# User instructions per request, against the committed counts: what a busy machine cannot blur.
run_instructions() {
  "$CARGO_TARGET_DIR/release/mantlet-instructions" --mantlet "$CARGO_TARGET_DIR/release/mantlet-proxy"
}
