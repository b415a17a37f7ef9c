// The engine over TLS 1.3. Usage: bench_tls_engine_server echo|discard|source tcp|unix:PATH
#include <cstdio>

#include "bench/load/identity.h"
#include "bench/servers/engine_server.h"
#include "streams/tls_context.h"

int main(int argc, char** argv) {
  const sockbroker::bench::Identity identity = sockbroker::bench::MakeIdentity();
  sockbroker::streams::TlsContextOptions tls;
  tls.side = sockbroker::streams::TlsSide::kServer;
  tls.certificate_pem = identity.certificate_pem;
  tls.private_key_pem = identity.key_pem;
  tls.min_version = sockbroker::streams::TlsVersion::kTls13;
  const auto context = sockbroker::streams::TlsContext::Create(tls);
  if (!context.ok()) {
    std::fprintf(stderr, "%s\n", context.status().ToString().c_str());
    return 1;
  }
  return sockbroker::bench::RunEngineServer(argc, argv, *context);
}
