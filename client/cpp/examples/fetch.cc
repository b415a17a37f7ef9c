// Fetches a page through the broker: the socket is the broker's, the program is this one.
// Usage: example_client_fetch HOST PORT PATH       (the broker: $SOCKBROKER_ADDRESS, or the
// default)
#include <sockbroker/client.h>

#include <cstdio>

namespace client = sockbroker::client;
using sockbroker::streams::Task;

Task<absl::Status> Fetch(std::string host, std::string port, std::string path) {
  auto broker = co_await client::Broker::Connect("");
  if (!broker.ok()) co_return broker.status();
  auto connection = co_await broker->OpenConnection(host, port);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  absl::Status written =
      writer.Write("GET " + path + " HTTP/1.0\r\nHost: " + host + "\r\nConnection: close\r\n\r\n");
  if (!written.ok()) co_return written;
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok()) co_return data.status();
    if (data->empty()) break;
    for (absl::string_view chunk : data->Chunks()) {
      std::fwrite(chunk.data(), 1, chunk.size(), stdout);
    }
  }
  writer.Close();
  co_return co_await writer.WaitClosed();
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s HOST PORT PATH\n", argv[0]);
    return 2;
  }
  sockbroker::streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Fetch(argv[1], argv[2], argv[3]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
