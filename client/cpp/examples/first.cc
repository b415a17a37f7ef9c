#include <sockbroker/client.h>

#include <iostream>

int main(int argc, char** argv) {  // unix:/run/sockbroker/sockbroker.sock 127.0.0.1 6379
  if (argc != 4) return 2;
  auto broker = sockbroker::client::blocking::Broker::Connect(argv[1]);
  if (!broker.ok()) return std::cerr << broker.status() << "\n", 1;
  auto connection = broker->OpenConnection(argv[2], argv[3]);
  if (!connection.ok()) return std::cerr << connection.status() << "\n", 1;
  auto& [reader, writer] = *connection;
  if (!writer.Write("PING\r\n").ok()) return 1;
  auto answer = reader.ReadLine(absl::Seconds(5));
  if (!answer.ok()) return std::cerr << answer.status() << "\n", 1;
  std::cout << *answer;  // +PONG
  writer.Close();
  return writer.WaitClosed().ok() ? 0 : 1;
}
