// The engine over plain sockets. Usage: bench_engine_server echo|discard|source tcp|unix:PATH
#include "bench/servers/engine_server.h"

int main(int argc, char** argv) {
  return sockbroker::bench::RunEngineServer(argc, argv, /*tls=*/nullptr);
}
