# Static checks: formatting, lints, the dependency tree.

check_format() {
  cargo fmt --all --check
}

check_lints() {
  cargo clippy --workspace --all-targets --locked -- -D warnings
}

# Versions with known advisories are also held in deny.toml, so that they bind without the database.
check_dependencies() {
  cargo deny --locked check bans licenses sources
  local log=$cache/advisories.log
  if timeout 120 cargo deny --locked check advisories >"$log" 2>&1; then
    tail -1 "$log"
  elif grep -q "failed to fetch advisory database" "$log"; then
    # The one part that may be skipped: cargo-deny clones this database with git from its own
    # repository, and a machine that reaches package registries alone cannot.
    echo "SKIP advisories: the advisory database cannot be fetched from here:"
    grep -m1 -i -E "could not resolve|unable to access|timed out" "$log" || true
    echo "enable: run 'cargo deny check advisories' on a machine that reaches it"
  else
    cat "$log"
    return 1
  fi
}
