// Reads lines from a connection, and leaves it in the broker after three: the next run, given the
// handle that this one printed, goes on with the fourth. Nothing is lost or read twice in between.
// Usage: example_client_resume HOST PORT | example_client_resume HANDLE-IN-HEX@OFFSET
#include <sockbroker/client.h>

#include <cstdio>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace client = sockbroker::client;
using sockbroker::streams::Task;

Task<absl::StatusOr<client::Connection>> OpenOrAttach(client::Broker broker, std::string where,
                                                      std::string port) {
  if (!port.empty()) co_return co_await broker.OpenConnection(where, port);
  std::pair<std::string, std::string> parts = absl::StrSplit(where, '@');
  client::AttachOptions options;
  uint64_t offset = 0;
  if (absl::SimpleAtoi(parts.second, &offset)) options.read_offset = offset;
  co_return co_await broker.Attach(absl::HexStringToBytes(parts.first), options);
}

Task<absl::Status> Main(std::string where, std::string port) {
  auto broker = co_await client::Broker::Connect("");
  if (!broker.ok()) co_return broker.status();
  auto connection = co_await OpenOrAttach(*broker, where, port);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  for (int i = 0; i < 3; ++i) {
    absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
    if (!line.ok()) co_return line.status();
    std::printf("%s", std::string(*line).c_str());
  }
  auto left = co_await writer.Detach();
  if (!left.ok()) co_return left.status();
  std::printf("%s@%lu\n", absl::BytesToHexString(left->handle).c_str(), left->read_offset);
  co_return absl::OkStatus();
}

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  sockbroker::streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argv[1], argc == 3 ? argv[2] : ""));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
