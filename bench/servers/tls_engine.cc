// The engine as a contestant over TLS 1.3: one loop, one thread, written as a user of the engine
// would. Usage: bench_tls_engine_server discard|source tcp|unix:PATH
#include <cstdio>
#include <string>

#include "bench/load/identity.h"
#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): as in the examples

namespace {

constexpr std::size_t kBlock = 64 * 1024;

Task<void> Discard(StreamReader reader, StreamWriter writer) {
  while (true) {
    const absl::StatusOr<absl::Cord> data = co_await reader.Read(kBlock);
    if (!data.ok() || data->empty()) break;
  }
  writer.Close();
}

// Sends the same block until the peer has had enough.
Task<void> Source(StreamReader /*reader*/, StreamWriter writer) {
  const absl::Cord block(std::string(kBlock, 'x'));
  while (writer.Write(block).ok() && (co_await writer.Drain()).ok()) {
  }
  writer.Close(/*discard_pending=*/true);
}

Task<absl::Status> Serve(ClientConnected callback, std::string address) {
  const sockbroker::bench::Identity identity = sockbroker::bench::MakeIdentity();
  TlsContextOptions tls;
  tls.side = TlsSide::kServer;
  tls.certificate_pem = identity.certificate_pem;
  tls.private_key_pem = identity.key_pem;
  tls.min_version = TlsVersion::kTls13;
  auto context = TlsContext::Create(tls);
  if (!context.ok()) co_return context.status();
  absl::StatusOr<Server> server;
  if (address == "tcp") {
    StartServerOptions options;
    options.tls.context = *context;
    server = co_await StartServer(std::move(callback), "127.0.0.1", 0, options);
  } else {
    StartUnixServerOptions options;
    options.tls.context = *context;
    server = co_await StartUnixServer(std::move(callback), address.substr(5), options);
  }
  if (!server.ok()) co_return server.status();
  std::printf("listening on %s%s\n",
              address == "tcp" ? "" : "unix:", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  co_return co_await server->ServeForever();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 3 ? argv[1] : "";
  const ClientConnected callback = mode == "discard"  ? Discard
                                   : mode == "source" ? Source
                                                      : ClientConnected();
  if (callback == nullptr) {
    std::fprintf(stderr, "usage: %s discard|source tcp|unix:PATH\n", argv[0]);
    return 2;
  }
  EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Serve(callback, argv[2]));
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
