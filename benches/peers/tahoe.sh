#!/usr/bin/env bash
# Tahoe-LAFS 1.20 on loopback: an introducer, ten storage nodes and a client, 3 of 10. See README.md.
peer=tahoe
. "$(dirname "${BASH_SOURCE[0]}")/processes.sh"

port=${TAHOE_PORT:-34560} # the client's web interface; the introducer and the nodes have the ports after it
nodes=10
web="http://127.0.0.1:$port"
tahoe="$dir/venv/bin/tahoe"
# Files of a folder that are moved at once.
at_once=8

install() {
  mkdir -p "$dir"
  python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install --quiet 'tahoe-lafs==1.20.*' 'setuptools<81'
}

configure() {
  mkdir -p "$dir/names"
  local listen
  listen() { echo --port "tcp:$1:interface=127.0.0.1" --location "tcp:127.0.0.1:$1"; }
  # shellcheck disable=SC2046 # two options and two values
  [ -d "$dir/introducer" ] || "$tahoe" create-introducer $(listen $((port + 1))) "$dir/introducer"
  start_process introducer "$tahoe" run --allow-stdin-close "$dir/introducer"
  wait_until 60 "the introducer's start" test -s "$dir/introducer/private/introducer.furl"
  local furl node
  furl=$(cat "$dir/introducer/private/introducer.furl")
  for node in $(seq "$nodes"); do
    [ -d "$dir/node$node" ] || "$tahoe" create-node $(listen $((port + 1 + node))) --introducer "$furl" --webport none \
      --nickname "node$node" "$dir/node$node"
  done
  [ -d "$dir/client" ] || "$tahoe" create-client --introducer "$furl" --webport "tcp:$port:interface=127.0.0.1" \
    --nickname client --shares-needed 3 --shares-happy 7 --shares-total 10 "$dir/client"
}

connected() { [ "$(curl -sf "$web/?t=json" | grep -c '"connection_status": "connected"')" -ge "$nodes" ]; }

start() {
  [ -x "$tahoe" ] || fail "not installed: run '$self install' first"
  [ -z "$(running)" ] || { echo "already running"; return; }
  rm -f "$pids"
  configure
  local node
  for node in $(seq "$nodes"); do start_process "node$node" "$tahoe" run --allow-stdin-close "$dir/node$node"; done
  start_process client "$tahoe" run --allow-stdin-close "$dir/client"
  wait_until 120 "the connection to $nodes nodes" connected
  echo "started: $web"
}

# Through the web interface, since each start of Tahoe's own command takes a second. Capabilities are kept in files.
put_file() { curl -sSf -T "$1" "$web/uri"; }
get_file() { curl -sSf -o "$2" "$web/uri/$(echo "$1" | sed 's/:/%3A/g')"; }

put() {
  local source="$1" names="$dir/names/$2"
  if [ -f "$source" ]; then put_file "$source" > "$names"; return; fi
  # shellcheck disable=SC2016 # the inner shell's variables
  (cd "$source" && find . -type f -print0 | xargs -0 -P "$at_once" -I {} sh -c \
    'printf "%s %s\n" "$(curl -sSf -T "$1" "$2/uri")" "$1"' _ {} "$web") > "$names.part"
  [ "$(wc -l < "$names.part")" = "$(find "$source" -type f | wc -l)" ] || fail "some files were not stored"
  mv "$names.part" "$names"
}

get() {
  local names="$dir/names/$1" target="$2"
  [ -f "$names" ] || fail "nothing is stored under $1"
  case "$(cat "$names")" in
    *" ./"*) ;;
    *) get_file "$(cat "$names")" "$target"; return ;;
  esac
  mkdir -p "$target"
  cut -d ' ' -f 2- "$names" | sed 's|/[^/]*$||' | sort -u | (cd "$target" && tr '\n' '\0' | xargs -0 mkdir -p)
  # shellcheck disable=SC2016
  (cd "$target" && tr '\n' '\0' < "$names" | xargs -0 -P "$at_once" -I {} sh -c \
    'cap=${1%% *}; curl -sSf -o "${1#* }" "$2/uri/$(echo "$cap" | sed s/:/%3A/g)"' _ {} "$web")
}

case "${1:-}" in
  install) install ;;
  start) start ;;
  stop) stop_processes ;;
  put) put "$2" "$3" ;;
  get) get "$2" "$3" ;;
  # Tahoe forgets by leases; what is stored stays until `clean`.
  remove) rm -f "$dir/names/$2" ;;
  clean) stop_processes; rm -rf "$dir"/node* "$dir/client" "$dir/introducer" "$dir/names" ;;
  arguments)
    echo "--cmd-name 'Tahoe-LAFS 1.20' --cmd-put '$self put {source} {name}' --cmd-get '$self get {name} {target}'" \
      "--cmd-remove '$self remove {name}' $(pid_arguments)"
    ;;
  *) echo "usage: $0 install | start | stop | clean | arguments | put SOURCE NAME | get NAME TARGET | remove NAME" >&2; exit 2 ;;
esac
