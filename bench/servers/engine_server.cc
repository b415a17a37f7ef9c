#include "bench/servers/engine_server.h"

#include <cstdio>
#include <string>
#include <utility>

#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): as in the examples

namespace sockbroker::bench {
namespace {

constexpr std::size_t kBlock = 64 * 1024;

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(kBlock);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

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

Task<absl::Status> Serve(ClientConnected callback, std::string address,
                         std::shared_ptr<const TlsContext> tls) {
  absl::StatusOr<Server> server;
  if (address == "tcp") {
    StartServerOptions options;
    options.backlog = 1024;
    options.tls.context = tls;
    server = co_await StartServer(std::move(callback), "127.0.0.1", 0, options);
  } else {
    StartUnixServerOptions options;
    options.backlog = 1024;
    options.tls.context = tls;
    server = co_await StartUnixServer(std::move(callback), address.substr(5), options);
  }
  if (!server.ok()) co_return server.status();
  std::printf("listening on %s%s\n",
              address == "tcp" ? "" : "unix:", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  co_return co_await server->ServeForever();
}

}  // namespace

int RunEngineServer(int argc, char** argv, std::shared_ptr<const TlsContext> tls) {
  const std::string mode = argc == 3 ? argv[1] : "";
  const std::string address = argc == 3 ? argv[2] : "";
  const ClientConnected callback = mode == "echo"      ? Echo
                                   : mode == "discard" ? Discard
                                   : mode == "source"  ? Source
                                                       : ClientConnected();
  if (callback == nullptr || (address != "tcp" && !address.starts_with("unix:"))) {
    std::fprintf(stderr, "usage: %s echo|discard|source tcp|unix:PATH\n", argv[0]);
    return 2;
  }
  EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Serve(callback, address, std::move(tls)));
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace sockbroker::bench
