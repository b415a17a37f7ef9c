#!/bin/bash
# What the service `client` of docker-compose.yml shows. It is on the front network alone: none of the three back ends can be
# reached from here, and all of them answer, since the broker's sockets are on their network.
set -euo pipefail

title() { printf '\n== %s\n' "$*"; }

title 'The broker serves, and knows us by our certificate:'
sockbroker ping -w 30

title 'redis, by hand: nc, but the broker holds the socket'
printf 'PING\r\nQUIT\r\n' | sockbroker connect redis 6379

title 'nginx'
printf 'GET / HTTP/1.0\r\n\r\n' | sockbroker connect nginx 80 | tail -1

title 'All three from Python, on the generated stubs; PostgreSQL is upgraded to TLS on the way'
ask.py

title 'A server whose socket is the broker'"'"'s: each of its connections runs a command here'
# The broker picks the port, and it is said on stderr: "Listening on 0.0.0.0 40123".
coproc listener { exec sockbroker listen -k 0.0.0.0 0 --exec 'echo "Hello, $SOCKBROKER_PEERADDR."' 2>&1; }
read -r said <&"${listener[0]}"
port=${said##* }
echo "It is at broker:$port. Anybody on the network can connect; so do we, without the command line:"
cat </dev/tcp/broker/"$port"
kill "$listener_PID"
wait "$listener_PID" || true

title 'All of it worked.'
