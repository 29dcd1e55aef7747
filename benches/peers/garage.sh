#!/usr/bin/env bash
# Garage 2.5 on loopback: three nodes, three copies, one bucket. See README.md.
peer=garage
. "$(dirname "${BASH_SOURCE[0]}")/processes.sh"

port=${GARAGE_PORT:-39000} # node N has S3 at this + 10 N, RPC at that + 1, administration at that + 2
nodes=3
bucket=bench
garage="$dir/bin/garage"

install() {
  mkdir -p "$dir"
  nice -n 19 cargo install garage --version '^2.5' --locked --root "$dir" --jobs "${JOBS:-1}" --target-dir "$dir/target"
}

configure() {
  local node base
  [ -f "$dir/secret" ] || (umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' > "$dir/secret")
  for node in $(seq "$nodes"); do
    base=$((port + 10 * node))
    mkdir -p "$dir/node$node"
    (umask 077 && cat > "$dir/node$node/garage.toml") << END
metadata_dir = "$dir/node$node/meta"
data_dir = "$dir/node$node/data"
db_engine = "sqlite"
replication_factor = 3
rpc_bind_addr = "127.0.0.1:$((base + 1))"
rpc_public_addr = "127.0.0.1:$((base + 1))"
rpc_secret = "$(cat "$dir/secret")"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$base"

[admin]
api_bind_addr = "127.0.0.1:$((base + 2))"
END
  done
}

on() { local node="$1"; shift; "$garage" -c "$dir/node$node/garage.toml" "$@"; }

# Tells the nodes of each other, gives each a part, and makes a bucket with a key.
lay_out() {
  local node
  for node in $(seq 2 "$nodes"); do on 1 node connect "$(on "$node" node id --quiet)"; done
  for node in $(seq "$nodes"); do on 1 layout assign "$(on "$node" node id --quiet | cut -d @ -f 1)" -z "zone$node" -c 100G; done
  on 1 layout apply --version 1
  wait_until 60 "a working layout" on 1 bucket create "$bucket"
  (umask 077 && on 1 key create bench > "$dir/key")
  on 1 bucket allow --read --write --owner "$bucket" --key bench
  (umask 077 && {
    sed -n 's/^ *Key ID: *\([^ ]*\).*/export AWS_ACCESS_KEY_ID=\1/p' "$dir/key"
    sed -n 's/^ *Secret key: *\([^ ]*\).*/export AWS_SECRET_ACCESS_KEY=\1/p' "$dir/key"
  } > "$dir/keys.env")
  rm "$dir/key"
  touch "$dir/laid-out"
}

start() {
  [ -x "$garage" ] || fail "not installed: run '$self install' first"
  [ -z "$(running)" ] || { echo "already running"; return; }
  rm -f "$pids"
  configure
  local node
  for node in $(seq "$nodes"); do
    start_process "node$node" env RUST_LOG=garage=warn "$garage" -c "$dir/node$node/garage.toml" server
  done
  for node in $(seq "$nodes"); do wait_until 30 "the start of node $node" on "$node" status; done
  [ -f "$dir/laid-out" ] || lay_out > "$dir/layout.log" 2>&1 || fail "the layout failed: see $dir/layout.log"
  wait_until 60 "three healthy nodes" healthy
  echo "started: http://127.0.0.1:$((port + 10))/$bucket"
}

healthy() { curl -sf "http://127.0.0.1:$((port + 12))/health"; }

case "${1:-}" in
  install) install ;;
  start) start ;;
  stop) stop_processes ;;
  clean) stop_processes; rm -rf "$dir"/node* "$dir/laid-out" "$dir/keys.env" ;;
  # The secret key stays in a file: arguments are public.
  keys) echo "$dir/keys.env" ;;
  arguments) echo "--s3 'http://127.0.0.1:$((port + 10))/$bucket?region=garage' $(pid_arguments)" ;;
  *) echo "usage: $0 install | start | stop | clean | keys | arguments" >&2; exit 2 ;;
esac
