// A server without coroutines: a thread for each connection, which is greeted by its first line.
// Usage: example_client_blocking_server [PORT]
#include <sockbroker/client.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace blocking = sockbroker::client::blocking;

void Greet(blocking::Connection connection) {
  const absl::StatusOr<std::string> name = connection.reader.ReadLine(absl::Seconds(60));
  if (name.ok()) connection.writer.Write("Hello, " + *name).IgnoreError();
  connection.writer.Close();
  connection.writer.WaitClosed().IgnoreError();  // the peer may be gone, which is its affair
}

absl::Status Serve(int port) {
  auto broker = blocking::Broker::Connect("");
  if (!broker.ok()) return broker.status();
  auto server = broker->StartServer("127.0.0.1", port);
  if (!server.ok()) return server.status();
  std::printf("listening on %s\n", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  while (true) {
    absl::StatusOr<blocking::Connection> connection = server->Accept();
    if (!connection.ok()) return connection.status();
    std::thread(Greet, *std::move(connection)).detach();
  }
}

int main(int argc, char** argv) {
  const absl::Status status = Serve(argc > 1 ? std::atoi(argv[1]) : 0);
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
