// A broker as sockbrokerd runs it, with an RPC beside its own that does nothing at all: what the
// broker adds to gRPC is then the difference between two calls to one server. Usage:
// bench_rpc_server unix:PATH
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "bench/rpc/empty.grpc.pb.h"
#include "server/broker.h"
#include "server/control_plane.h"
#include "server/listen_address.h"
#include "server/listening_socket.h"

namespace sockbroker::bench {
namespace {

// On the callback API, as the broker's service is.
class EmptyService final : public Empty::CallbackService {
  grpc::ServerUnaryReactor* DoNothing(grpc::CallbackServerContext* context,
                                      const Nothing* /*request*/, Nothing* /*response*/) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

absl::Status Serve(const char* text) {
  absl::StatusOr<server::ListenAddress> address = server::ParseListenAddress(text, {});
  if (!address.ok()) return address.status();
  absl::StatusOr<std::vector<server::ListeningSocket>> sockets =
      server::ListeningSocket::Open(*address, {}, nullptr);
  if (!sockets.ok()) return sockets.status();
  server::Broker broker{server::BrokerOptions()};
  for (const server::ListeningSocket& socket : *sockets) broker.AddOwnListener(socket.address());
  EmptyService empty;
  absl::StatusOr<std::unique_ptr<server::ControlPlane>> plane =
      server::ControlPlane::Start(*std::move(sockets), {broker.service(), &empty}, {});
  if (!plane.ok()) return plane.status();
  std::cout << "listening on " << (*plane)->addresses()[0] << std::endl;
  while (true) pause();
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " unix:PATH\n";
    return 2;
  }
  std::cerr << sockbroker::bench::Serve(argv[1]) << "\n";
  return 1;
}
