// The example of asyncio's manual: prints the HTTP headers of a server. Usage:
// example_fetch_http_headers HOST [PORT]
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): an example reads
                                      // better so

Task<absl::Status> PrintHttpHeaders(std::string host, std::string port) {
  absl::StatusOr<Connection> connection = co_await OpenConnection(host, port);
  if (!connection.ok()) co_return connection.status();
  auto [reader, writer] = *std::move(connection);
  absl::Status status = writer.Write(absl::StrCat("HEAD / HTTP/1.0\r\nHost: ", host, "\r\n\r\n"));
  while (status.ok()) {
    absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
    if (!line.ok()) co_return line.status();
    if (line->empty()) break;
    std::printf("HTTP header> %s", std::string(*line).c_str());
  }
  writer.Close();
  co_return status;
}

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s HOST [PORT]\n", argv[0]);
    return 2;
  }
  EventLoop loop;
  const absl::Status status =
      loop.RunUntilComplete(PrintHttpHeaders(argv[1], argc > 2 ? argv[2] : "http"));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
