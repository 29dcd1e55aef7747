#!/usr/bin/env bash
# sendme 0.37: one sender, one receiver, no redundancy and no servers but the sender. See README.md.
peer=sendme
. "$(dirname "${BASH_SOURCE[0]}")/processes.sh"

sendme="$dir/bin/sendme"

install() {
  mkdir -p "$dir"
  nice -n 19 cargo install sendme --version '^0.37' --locked --root "$dir" --jobs "${JOBS:-1}" --target-dir "$dir/target"
}

# Hashing is all that a put is: the sender stays and serves.
put() {
  local source name="$2" folder="$dir/shared/$2"
  source=$(realpath "$1")
  [ -x "$sendme" ] || fail "not installed: run '$self install' first"
  [ ! -e "$folder" ] || fail "$name is shared already"
  mkdir -p "$folder"
  pids="$folder/pids"
  # It keeps its copies below the folder that it runs in.
  (cd "$folder" && dir="$folder" start_process sender "$sendme" send --no-progress --relay disabled --ticket-type addresses "$source")
  wait_until 600 "the ticket for $source" grep -q 'sendme receive blob' "$folder/sender.log"
  sed -n 's/.*sendme receive \(blob[a-z0-9]*\).*/\1/p' "$folder/sender.log" | head -n 1 > "$folder/ticket"
  basename "$source" > "$folder/name"
}

get() {
  local folder="$dir/shared/$1" target="$2" work
  [ -s "$folder/ticket" ] || fail "nothing is shared under $1"
  # Beside the target, so that the last step is a rename.
  work=$(mktemp -d "$(dirname "$target")/.sendme-XXXXXX")
  (cd "$work" && "$sendme" receive --no-progress --relay disabled "$(cat "$folder/ticket")" < /dev/null)
  mv "$work/$(cat "$folder/name")" "$target"
  rm -rf "$work"
}

remove() {
  local folder="$dir/shared/$1"
  pids="$folder/pids"
  stop_processes
  rm -rf "$folder"
}

each() { for folder in "$dir"/shared/*/; do [ ! -d "$folder" ] || "$1" "$(basename "$folder")"; done; }

case "${1:-}" in
  install) install ;;
  start) [ -x "$sendme" ] || fail "not installed: run '$self install' first"; echo "nothing to start: each put starts its own sender" ;;
  stop | clean) each remove ;;
  put) put "$2" "$3" ;;
  get) get "$2" "$3" ;;
  remove) remove "$2" ;;
  arguments)
    echo "--cmd-name 'sendme 0.37' --cmd-put '$self put {source} {name}' --cmd-get '$self get {name} {target}'" \
      "--cmd-remove '$self remove {name}'"
    ;;
  *) echo "usage: $0 install | start | stop | arguments | put SOURCE NAME | get NAME TARGET | remove NAME" >&2; exit 2 ;;
esac
