// Sends back whatever it receives. Usage: example_echo_server [PORT]
#include <cstdio>
#include <cstdlib>

#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): an example reads
                                      // better so

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(64 * 1024);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

Task<absl::Status> Main(int port) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", port);
  if (!server.ok()) co_return server.status();
  std::printf("echo server on %s\n", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  co_return co_await server->ServeForever();
}

int main(int argc, char** argv) {
  EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argc > 1 ? std::atoi(argv[1]) : 8888));
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
