# The fuzz targets, for a fixed number of inputs each, from the committed seeds.

fuzz_inputs=20000

run_fuzz() {
  rustup run nightly rustc --version || rustup toolchain install nightly --profile minimal
  cargo_tool cargo-fuzz 0.13.2
  local targets built seeds target
  built=$cache/fuzz-$(rustup run nightly rustc --version | sha256sum | cut -c1-16)
  targets=$(cargo +nightly fuzz list)
  # All at once: one build.
  env -u CARGO_TARGET_DIR cargo +nightly fuzz build --target-dir "$built"
  for target in $targets; do
    # What a run finds goes into a copy: the clone stays as it was committed.
    seeds=$(mktemp -d)
    cp "fuzz/corpus/$target"/* "$seeds"/
    if ! env -u CARGO_TARGET_DIR cargo +nightly fuzz run --target-dir "$built" "$target" "$seeds" -- \
      -runs="$fuzz_inputs" -max_total_time=120 >"$cache/fuzz-$target.log" 2>&1; then
      tail -60 "$cache/fuzz-$target.log"
      echo "fuzz target $target failed; what it failed on is in fuzz/artifacts/$target"
      return 1
    fi
    rm -rf "$seeds"
    tail -n 400 "$cache/fuzz-$target.log" | grep -o "Done .*" | sed "s/^/$target: /"
  done
}
