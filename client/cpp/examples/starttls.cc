// Asks a mail server for STARTTLS, and what it can do once it is protected. The broker does the
// TLS. Usage: example_client_starttls HOST PORT CA-FILE
#include <sockbroker/client.h>

#include <cstdio>
#include <fstream>
#include <iterator>

namespace client = sockbroker::client;
using sockbroker::streams::Task;

// The last line of an answer in several ("250-SIZE", ..., "250 HELP"), which has to begin so.
Task<absl::StatusOr<std::string>> Expect(client::StreamReader reader, std::string code) {
  while (true) {
    absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
    if (!line.ok()) co_return line.status();
    if (!line->StartsWith(code)) co_return absl::UnknownError(std::string(*line));
    if (line->StartsWith(code + " ")) co_return std::string(*line);
  }
}

Task<absl::StatusOr<std::string>> Ask(client::Connection connection, std::string what,
                                      std::string code) {
  if (absl::Status status = connection.writer.Write(what + "\r\n"); !status.ok()) co_return status;
  co_return co_await Expect(connection.reader, code);
}

Task<absl::Status> Main(std::string host, std::string port, std::string ca_pem) {
  auto broker = co_await client::Broker::Connect("");
  if (!broker.ok()) co_return broker.status();
  auto connection = co_await broker->OpenConnection(host, port);
  if (!connection.ok()) co_return connection.status();
  absl::StatusOr<std::string> answer = co_await Expect(connection->reader, "220");
  if (answer.ok()) answer = co_await Ask(*connection, "EHLO example", "250");
  if (answer.ok()) answer = co_await Ask(*connection, "STARTTLS", "220");
  if (!answer.ok()) co_return answer.status();
  // From this byte on. What the server said in clear behind its answer would be an error here.
  sockbroker::v1::TlsOptions tls;
  tls.set_ca_pem(ca_pem);
  tls.set_server_hostname(host);
  if (absl::Status status = co_await connection->writer.StartTls(tls); !status.ok()) {
    co_return status;
  }
  answer = co_await Ask(*connection, "EHLO example", "250");
  if (answer.ok()) std::printf("%s", answer->c_str());
  if (answer.ok()) answer = co_await Ask(*connection, "QUIT", "221");
  if (!answer.ok()) co_return answer.status();
  connection->writer.Close();
  co_return co_await connection->writer.WaitClosed();
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s HOST PORT CA-FILE\n", argv[0]);
    return 2;
  }
  std::ifstream file(argv[3]);
  const std::string ca_pem((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
  sockbroker::streams::EventLoop loop;
  const absl::Status status = loop.RunUntilComplete(Main(argv[1], argv[2], ca_pem));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
