// ControlPlane: the gRPC server and the sockets it is reached through. Health (grpc.health.v1) and
// reflection are served beside what is given.
//
//   auto plane = ControlPlane::Start(std::move(sockets), {broker.service()}, {});
//   for (const std::string& address : (*plane)->addresses()) std::cout << address << "\n";
//   (*plane)->SetServing(false);                        // drain
//   (*plane)->Shutdown(absl::Seconds(1));
#pragma once

#include <grpcpp/impl/codegen/service_type.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/control_tls.h"
#include "server/listening_socket.h"

namespace sockbroker::server {

// What a client of the control plane may use up. Sizes in bytes.
struct ControlPlaneLimits {
  // A Write carries at most 1 MiB; there is room for its other fields, many small lines and growth.
  int max_receive_message = 4 << 20;
  // A request's metadata, after HPACK.
  int max_metadata = 16 << 10;
  // Calls under way on one connection: a waiting Read, Accept or WaitClosed is one, so a client
  // with 10,000 connections needs as many. What is above waits at the client.
  int max_concurrent_streams = 20'000;
  // Connections through mutual TLS that have made no call yet; one more ends the oldest. They are
  // paid from the reserve of descriptors, which has 256 at least.
  std::size_t max_handshakes = 128;
  // All of gRPC's buffers together. 0: a quarter of the machine's memory, at least 256 MiB.
  std::size_t memory = 0;
  // Threads of gRPC's blocking services; only reflection is one.
  int max_threads = 16;
};

struct ControlPlaneOptions {
  ControlPlaneLimits limits;
  // Needed when one of the sockets speaks mutual TLS.
  std::optional<ControlTlsFiles> tls;
  // Told what a person should know (see ControlListenerOptions); from any thread. May be null.
  std::function<void(absl::string_view sentence)> on_trouble;
};

class ControlPlane {
 public:
  // `services` must outlive it. Each of them may tell its callers apart by PrincipalOf: peer() of a
  // Unix socket is "unix:", of TCP "ipv4:..." or "ipv6:...", and auth_context() tells of TLS.
  static absl::StatusOr<std::unique_ptr<ControlPlane>> Start(std::vector<ListeningSocket> sockets,
                                                             std::vector<grpc::Service*> services,
                                                             ControlPlaneOptions options);
  // Shuts down at once, if it was not.
  ~ControlPlane();
  ControlPlane(const ControlPlane&) = delete;
  ControlPlane& operator=(const ControlPlane&) = delete;

  // Where it listens, in the order given, with real ports: "unix:PATH", "127.0.0.1:40721".
  const std::vector<std::string>& addresses() const { return addresses_; }

  // The health service's answer, for the server as a whole and for every service.
  void SetServing(bool serving);

  // Accepts nobody any more, removes the sockets' files, lets calls under way end for at most
  // `grace`, then cancels them. Idempotent.
  void Shutdown(absl::Duration grace);

  // Removes the sockets' files and nothing else, for who must leave at once. Any thread.
  void RemoveFiles() const;

 private:
  struct Parts;
  explicit ControlPlane(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
  std::vector<std::string> addresses_;
};

}  // namespace sockbroker::server
