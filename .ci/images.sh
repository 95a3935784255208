# The images, built twice: here, and from another folder with another target folder. Every byte must be the same.

build_images() {
  local first=$cache/images/first second=$cache/images/second elsewhere=$cache/images/elsewhere other image
  other=$cache/images-target-$(key Cargo.lock .cargo/config.toml)
  rm -rf "$first" "$second" "$elsewhere"
  mkdir -p "$elsewhere" "$other"
  touch "$other"
  prune 'images-target-*' 1
  deploy/images/build --out "$first"
  # With the time of now, which is what cargo goes by.
  tar --create --exclude=./target --exclude=./fuzz/target --exclude=./fuzz/artifacts . |
    tar --extract --touch --directory="$elsewhere"
  CARGO_TARGET_DIR=$other "$elsewhere/deploy/images/build" --out "$second"
  for image in "$first"/*.tar; do
    cmp "$image" "$second/${image##*/}"
  done
  diff -r "$first" "$second"
  export TEST_IMAGES=$first
}
