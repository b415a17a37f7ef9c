// Every line that somebody sends goes to everybody else. Usage: example_chat_server [PORT]
#include <cstdio>
#include <cstdlib>
#include <map>

#include "streams/streams.h"

using namespace sockbroker::streams;  // NOLINT(google-build-using-namespace): an example reads
                                      // better so

std::map<std::string, StreamWriter> guests;

Task<void> Chat(StreamReader reader, StreamWriter writer) {
  const std::string name = writer.peername().ToString();
  guests.emplace(name, writer);
  while (true) {
    absl::StatusOr<absl::Cord> line = co_await reader.ReadLine();
    if (!line.ok() || line->empty()) break;
    line->Prepend(name + ": ");
    for (auto& [other, guest] : guests) {
      // Without Drain: who doesn't read must not hold up the others.
      if (other != name) guest.Write(*line).IgnoreError();
    }
  }
  guests.erase(name);
}

Task<absl::Status> Main(int port) {
  absl::StatusOr<Server> server = co_await StartServer(Chat, "127.0.0.1", port);
  if (!server.ok()) co_return server.status();
  std::printf("chat server on %s\n", server->sockets()[0].ToString().c_str());
  std::fflush(stdout);
  co_return co_await server->ServeForever();
}

int main(int argc, char** argv) {
  EventLoop loop;
  std::puts(loop.RunUntilComplete(Main(argc > 1 ? std::atoi(argv[1]) : 8889)).ToString().c_str());
}
