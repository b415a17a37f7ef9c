#!/usr/bin/env bash
# Starts a broker and two real servers, shows what goes through the broker, and stays until Ctrl-C for you to try more.
# With --once it ends by itself; the status is 0 when all that was shown was also right.
#
#   scripts/demo.sh [--once]          # what ./dev run calls, after it has built build/release
#
# SOCKBROKER_BUILD_DIR names another build. No process outlives this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

once=
case ${1:-} in
  '') ;;
  --once) once=1 ;;
  *)
    printf 'usage: demo.sh [--once]\n' >&2
    exit 2
    ;;
esac

build=$(realpath "${SOCKBROKER_BUILD_DIR:-build/release}")
for program in sockbrokerd sockbroker; do
  [[ -x $build/$program ]] || {
    printf 'demo: %s is not built; ./dev run builds it\n' "$build/$program" >&2
    exit 1
  }
done
PATH=$build:$PATH
export PYTHONPATH=$build/python${PYTHONPATH:+:$PYTHONPATH}

directory=$(mktemp -d /tmp/sockbroker-demo-XXXXXX)
processes=()
cleanup() {
  trap - EXIT INT TERM HUP
  local process
  # What was started last goes first, so that the broker closes its connections while the peers are there.
  for ((i = ${#processes[@]} - 1; i >= 0; i--)); do
    process=${processes[i]}
    kill "$process" 2>/dev/null || continue
    # Not `wait`: in a trap bash 5.2 waits for ever for a child that Ctrl-C has ended already.
    while kill -0 "$process" 2>/dev/null; do sleep 0.02; done
  done
  rm -rf "$directory"
}
trap cleanup EXIT
trap 'printf "\n"; cleanup; exit 0' INT TERM HUP

bold= plain=
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# show COMMAND: prints and runs it; what it printed is left in $shown.
show() {
  printf '%s$ %s%s\n' "$bold" "$1" "$plain"
  shown=$(bash -o pipefail -c "$1") || fail "that failed with status $?"
  printf '%s\n' "$shown"
}
fail() {
  printf 'demo: %s\n' "$*" >&2
  if [[ -s $directory/broker.log ]]; then sed 's/^/  broker: /' "$directory/broker.log" >&2; fi
  exit 1
}
# expect TEXT: the last `show` must have printed it.
expect() { [[ $shown == *"$1"* ]] || fail "expected to see: $1"; }

# wait_for WHAT COMMAND...: until the command succeeds; no longer than 20 s.
wait_for() {
  local what=$1 deadline=$((SECONDS + 20))
  shift
  until "$@" 2>/dev/null; do
    ((SECONDS < deadline)) || fail "$what did not start"
    sleep 0.05
  done
}

# --- the peers: an HTTP server and an echo on a Unix socket ---------------------------------------------------------

mkdir "$directory/www"
printf 'Hello from a real HTTP server.\n' >"$directory/www/hello.txt"
/usr/bin/python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$directory/www" \
  >"$directory/http.log" 2>&1 &
processes+=($!)
wait_for 'the HTTP server' grep -q 'port [0-9]' "$directory/http.log"
http_port=$(sed -n 's/.* port \([0-9]*\).*/\1/p;q' "$directory/http.log")

echo_socket=$directory/echo.sock
socat "UNIX-LISTEN:$echo_socket,fork" EXEC:cat 2>"$directory/socat.log" &
processes+=($!)
wait_for 'the echo server' socat -u OPEN:/dev/null "UNIX-CONNECT:$echo_socket"

# --- the broker: where the CLI looks by itself, if nothing is there; with --once never ------------------------------

start_broker() {
  sockbrokerd "$@" >"$directory/broker.out" 2>"$directory/broker.log" &
  broker=$!
  while kill -0 "$broker" 2>/dev/null; do
    if grep -qs 'listening on' "$directory/broker.out"; then
      processes+=("$broker")
      return 0
    fi
    sleep 0.05
  done
  wait "$broker" || true
  return 1
}

title 'A broker:'
default=
if [[ -z $once ]] && start_broker; then
  default=1
else
  start_broker --listen "unix:$directory/broker.sock" || fail 'the broker did not start'
  export SOCKBROKER_ADDRESS=unix:$directory/broker.sock
fi
cat "$directory/broker.out"

# --- what goes through it -------------------------------------------------------------------------------------------

title 'An HTTP request, over a socket the broker owns:'
show "printf 'GET /hello.txt HTTP/1.0\r\n\r\n' | sockbroker connect 127.0.0.1 $http_port"
expect 'Hello from a real HTTP server.'

title 'A Unix socket:'
show "echo 'Hello, echo.' | sockbroker connect -U $echo_socket"
expect 'Hello, echo.'

title 'A server: the broker listens, a command answers each connection:'
sockbroker listen -k 127.0.0.1 0 --exec 'sed -u "s/^/you said: /"' 2>"$directory/listen.log" &
processes+=($!)
wait_for 'sockbroker listen' grep -q Listening "$directory/listen.log"
cat "$directory/listen.log"
listen_port=$(sed -n 's/Listening on .* \([0-9]*\)$/\1/p' "$directory/listen.log")
show "echo 'is anybody there?' | socat - TCP:127.0.0.1:$listen_port"
expect 'you said: is anybody there?'
show 'sockbroker servers'

title 'From Python, with grpcio and the generated stubs. The first program opens a connection, asks, and dies:'
cat >"$directory/ask.py" <<'PYTHON'
import os, sys, grpc
from sockbroker.v1 import connection_pb2, io_pb2, sockbroker_pb2_grpc
broker = sockbroker_pb2_grpc.SocketBrokerStub(grpc.insecure_channel(sys.argv[1]))
c = broker.OpenUnixConnection(connection_pb2.OpenUnixConnectionRequest(path=sys.argv[2].encode())).connection
broker.Write(io_pb2.WriteRequest(handle=c.handle, data=b"asked by process %d\n" % os.getpid(), drain=True))
print(c.handle.hex(), flush=True)
os._exit(1)  # no close, no goodbye
PYTHON
cat >"$directory/answer.py" <<'PYTHON'
import os, sys, grpc
from sockbroker.v1 import connection_pb2, io_pb2, sockbroker_pb2_grpc
broker = sockbroker_pb2_grpc.SocketBrokerStub(grpc.insecure_channel(sys.argv[1]))
handle = bytes.fromhex(sys.argv[2])
line = broker.ReadLine(io_pb2.ReadLineRequest(handle=handle)).data.decode()
print(f"process {os.getpid()} reads: {line}", end="")
broker.Close(connection_pb2.CloseRequest(handle=handle))
PYTHON
address=$(sed -n '1s/.*listening on //p' "$directory/broker.out")
show "/usr/bin/python3 $directory/ask.py $address $echo_socket || true"
handle=$shown
[[ -n $handle ]] || fail 'no handle was printed'
printf '\nIts connection is still there:\n'
show 'sockbroker ls'
expect "${handle:0:4}"
printf '\nand another program carries on with it:\n'
show "/usr/bin/python3 $directory/answer.py $address $handle"
expect 'reads: asked by process'

if [[ -n $once ]]; then
  title 'All of it worked.'
  exit 0
fi

title 'The broker stays until Ctrl-C. In another terminal:'
printf '  cd %q\n' "$PWD"
if [[ -z $default ]]; then printf '  export SOCKBROKER_ADDRESS=%s\n' "$SOCKBROKER_ADDRESS"; fi
cli=${build#"$PWD"/}/sockbroker
cat <<NEXT
  $cli connect 127.0.0.1 $http_port           # then type: GET /hello.txt HTTP/1.0, and an empty line
  $cli connect -U $echo_socket
  $cli listen -k 127.0.0.1 0 --exec 'date'
  $cli watch                              # what happens to your connections, as it happens
  $cli ls --help                          # every command explains itself
  $cli connect --help
NEXT
# Interrupted by the signal's trap; ends too if the broker does.
wait "$broker" || fail "the broker ended with status $?"
