# What the scripts beside this one share: where things lie, and processes that are started and stopped by their numbers.
# Sourced, never run. $peer is the peer's name.
set -euo pipefail

home="${DOLMEN_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/dolmen-peers}"
dir="$home/$peer"
pids="$dir/pids"
self="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)/$(basename "${BASH_SOURCE[1]}")"

fail() { echo "$peer: $*" >&2; exit 1; }

# start_process NAME COMMAND...: in the background, its output in $dir/NAME.log, its number in $pids.
start_process() {
  local name="$1"
  shift
  nohup "$@" > "$dir/$name.log" 2>&1 < /dev/null &
  # The command with the number, so that a number that was given away is never stopped.
  echo "$! $(process_start "$!")" >> "$pids"
}

# When a process started, in ticks since the machine did: with its number, that names it for good.
process_start() { cut -d ')' -f 2- "/proc/$1/stat" 2> /dev/null | cut -d ' ' -f 21 || true; }

running() {
  [ -f "$pids" ] || return 0
  while read -r pid started; do
    if [ -n "$started" ] && [ "$(process_start "$pid")" = "$started" ]; then echo "$pid"; fi
  done < "$pids"
}

stop_processes() {
  local pid
  for pid in $(running); do kill "$pid" 2> /dev/null || true; done
  for _ in $(seq 100); do
    [ -n "$(running)" ] || break
    sleep 0.1
  done
  for pid in $(running); do kill -9 "$pid" 2> /dev/null || true; done
  rm -f "$pids"
}

# wait_until SECONDS WHAT COMMAND...: until the command succeeds.
wait_until() {
  local seconds="$1" what="$2"
  shift 2
  for _ in $(seq $((seconds * 5))); do
    if "$@" > /dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  fail "$what did not happen within $seconds s: see the logs in $dir"
}

# What tells a benchmark whose CPU time counts.
pid_arguments() { running | sed 's/^/--peer-pid /' | paste -sd ' ' -; }
