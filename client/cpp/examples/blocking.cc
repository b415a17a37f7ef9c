// The same without coroutines: asks a Redis for PONG, from a plain thread.
// Usage: example_client_blocking HOST PORT
#include <sockbroker/client.h>

#include <cstdio>

namespace client = sockbroker::client;

absl::StatusOr<std::string> Ping(const std::string& host, const std::string& port) {
  auto broker = client::blocking::Broker::Connect("");
  if (!broker.ok()) return broker.status();
  auto connection = broker->OpenConnection(host, port);
  if (!connection.ok()) return connection.status();
  if (absl::Status status = connection->writer.Write("PING\r\n"); !status.ok()) return status;
  absl::StatusOr<std::string> answer = connection->reader.ReadLine(absl::Seconds(5));
  connection->writer.Close();
  absl::Status closed = connection->writer.WaitClosed(absl::Seconds(5));
  return answer.ok() && !closed.ok() ? closed : answer;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s HOST PORT\n", argv[0]);
    return 2;
  }
  const absl::StatusOr<std::string> answer = Ping(argv[1], argv[2]);
  std::printf("%s\n", answer.ok() ? answer->c_str() : answer.status().ToString().c_str());
  return answer.ok() ? 0 : 1;
}
