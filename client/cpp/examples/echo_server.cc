// An echo server whose port is the broker's: it stays open while this program is restarted, and its
// connections live on. Usage: example_client_echo_server [PORT]
#include <sockbroker/client.h>

#include <cstdio>
#include <cstdlib>

namespace client = sockbroker::client;
namespace streams = sockbroker::streams;
using streams::Task;

// Knows nothing of brokers: the engine's own types.
Task<void> Echo(streams::StreamReader reader, streams::StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

Task<absl::Status> Main(int port) {
  client::BrokerOptions options;
  options.on_state = [](const client::LinkEvent& event) {
    if (event.state == client::LinkState::kReconnecting) std::fprintf(stderr, "link broke\n");
  };
  auto broker = co_await client::Broker::Connect("", options);
  if (!broker.ok()) co_return broker.status();
  auto server = co_await broker->StartServer(Echo, "127.0.0.1", port);
  if (!server.ok()) co_return server.status();
  std::printf("listening on %s\n", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  co_return co_await server->ServeForever();
}

int main(int argc, char** argv) {
  streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argc > 1 ? std::atoi(argv[1]) : 0));
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
