// Sends what it reads on stdin, and tells as it goes how far it has come: what the broker has
// survives this program, what its kernel has is on its way to the peer.
// Usage: example_client_upload HOST PORT
#include <sockbroker/client.h>

#include <cstdio>
#include <vector>

namespace client = sockbroker::client;
using sockbroker::streams::Task;

Task<absl::Status> Main(std::string host, std::string port) {
  auto broker = co_await client::Broker::Connect("");
  if (!broker.ok()) co_return broker.status();
  client::OpenConnectionOptions options;
  options.on_progress = [](const client::Progress& now) {
    std::fprintf(stderr, "\r%lu of %lu bytes with the broker, %lu sent", now.taken, now.written,
                 now.flushed);
  };
  auto connection = co_await broker->OpenConnection(host, port, options);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  std::vector<char> buffer(65536);
  while (const std::size_t size = std::fread(buffer.data(), 1, buffer.size(), stdin)) {
    absl::Status status = writer.Write(absl::string_view(buffer.data(), size));
    if (status.ok()) status = co_await writer.Drain();
    if (!status.ok()) co_return status;
  }
  if (absl::Status status = co_await writer.Flush(); !status.ok()) co_return status;
  writer.Close();
  absl::Status closed = co_await writer.WaitClosed();
  std::fprintf(stderr, "\nall %lu bytes are sent\n", writer.flushed_offset());
  co_return closed;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s HOST PORT\n", argv[0]);
    return 2;
  }
  sockbroker::streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argv[1], argv[2]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
