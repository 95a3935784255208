# Functions shared by the parts of .ci/run. Sourced, never run.

parts=()
current=start
# A signal is not a success: without these, the shell would leave with the status of the last command.
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# part NAME FUNCTION...: runs one part and keeps how long it took. The caller has `set -e`: the first
# failing command ends the run, and `finish` names the part it was in.
part() {
  current=$1
  shift
  local begun=$SECONDS
  echo
  echo "=== $current"
  "$@"
  parts+=("$(printf '%5d s  %s' $((SECONDS - begun)) "$current")")
}

# finish: on every exit, the times, and which part failed if one did.
finish() {
  local status=$?
  echo
  echo "=== time per part"
  printf '%s\n' "${parts[@]}"
  printf '%5d s  in all\n' "$SECONDS"
  if [ "$status" -ne 0 ]; then
    echo "CI FAILED in part \"$current\" (exit status $status)"
  else
    echo "CI passed"
  fi
}

# have COMMAND...: are they all installed?
have() {
  local name
  for name in "$@"; do
    command -v "$name" >/dev/null 2>&1 || return 1
  done
}

# key FILE...: a short hash of the contents and of the compiler.
key() {
  { rustc -vV; cat "$@"; } | sha256sum | cut -c1-16
}

# prune PATTERN KEEP: removes all but the KEEP most recently used folders matching PATTERN in the cache.
prune() {
  find "$cache" -maxdepth 1 -type d -name "$1" -printf '%T@ %p\n' | sort -rn | tail -n +"$(($2 + 1))" |
    cut -d' ' -f2- | while read -r old; do
      echo "removing $old, which belongs to an older lock file"
      rm -rf -- "$old"
    done
}
