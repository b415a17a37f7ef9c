// Both ends of a conversation over a Unix socket, both the broker's: a server that echoes, and a
// client of it. Usage: example_client_unix_echo PATH WORD
#include <sockbroker/client.h>

#include <cstdio>

namespace client = sockbroker::client;
namespace streams = sockbroker::streams;
using streams::Task;

Task<void> Echo(streams::StreamReader reader, streams::StreamWriter writer) {
  absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
  if (line.ok()) writer.Write(*std::move(line)).IgnoreError();  // Close flushes
  writer.Close();
}

Task<absl::Status> Main(std::string path, std::string word) {
  auto broker = co_await client::Broker::Connect("");
  if (!broker.ok()) co_return broker.status();
  client::StartUnixServerOptions options;
  options.mode = 0600;  // nobody else may connect
  auto server = co_await broker->StartUnixServer(Echo, path, options);
  if (!server.ok()) co_return server.status();
  auto connection = co_await broker->OpenUnixConnection(path);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  if (absl::Status status = writer.Write(word + "\n"); !status.ok()) co_return status;
  absl::StatusOr<absl::Cord> answer = co_await reader.ReadLine();
  if (!answer.ok()) co_return answer.status();
  std::printf("%s", std::string(*answer).c_str());
  writer.Close();
  server->Close();
  co_return co_await server->WaitClosed();
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s PATH WORD\n", argv[0]);
    return 2;
  }
  streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argv[1], argv[2]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
