// Says one thing to a server and prints its answer. Usage: example_echo_client HOST PORT TEXT
#include <cstdio>

#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): an example reads
                                      // better so

Task<absl::Status> Say(std::string host, std::string port, std::string text) {
  absl::StatusOr<Connection> connection = co_await OpenConnection(host, port);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  if (absl::Status status = writer.Write(text); !status.ok()) co_return status;
  if (absl::Status status = writer.WriteEof(); !status.ok()) co_return status;
  absl::StatusOr<absl::Cord> answer = co_await reader.ReadAll();
  if (!answer.ok()) co_return answer.status();
  std::printf("%s\n", std::string(*answer).c_str());
  writer.Close();
  co_return co_await writer.WaitClosed();
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s HOST PORT TEXT\n", argv[0]);
    return 2;
  }
  EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Say(argv[1], argv[2], argv[3]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
