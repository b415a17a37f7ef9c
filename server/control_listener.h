// ControlListener: accepts the connections of the broker's own clients, checks who they are, and
// hands them on (to gRPC). gRPC could listen itself, but in the versions Debian has its listener
// dies for good when the process runs out of descriptors (CVE-2023-4785), and a broker's
// descriptors are its business.
//
//   ControlListener listener(loop, std::move(socket), {.on_connection = HandToGrpc});
//   listener.Start();          // on the loop's thread, as everything here
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/listening_socket.h"
#include "streams/descriptor.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

struct ControlListenerOptions {
  // Given each connection that may come in: non-blocking, close-on-exec.
  std::function<void(streams::Descriptor connection)> on_connection;
  // Told what a person should know: a refused caller, descriptors that ran out. One sentence. May
  // be null.
  std::function<void(absl::string_view sentence)> on_trouble;
  // On a Unix socket, who may connect besides root (SO_PEERCRED).
  uid_t allowed_uid = geteuid();
  // When the process has no descriptor or memory left, accepting pauses so long, doubling up to the
  // maximum while it lasts.
  absl::Duration first_pause = absl::Milliseconds(100);
  absl::Duration max_pause = absl::Seconds(1);
};

class ControlListener final : private streams::internal::PollHandler {
 public:
  // `loop` must outlive it. Nothing is accepted before Start.
  ControlListener(streams::EventLoop* loop, ListeningSocket socket, ControlListenerOptions options);
  ~ControlListener();
  ControlListener(const ControlListener&) = delete;
  ControlListener& operator=(const ControlListener&) = delete;

  absl::Status Start();

  const ListeningSocket& socket() const { return socket_; }
  // Whether it waits for descriptors or memory to come back.
  bool paused() const { return pause_.armed(); }
  uint64_t accepted() const { return accepted_; }
  uint64_t refused() const { return refused_; }

 private:
  void OnPollEvents(uint32_t events) override;
  void AcceptAll();
  // Whether the peer may use the broker; says so when not.
  bool Admit(int fd);
  void PauseFor(int os_errno);
  void Trouble(absl::string_view sentence) const;

  streams::EventLoop* const loop_;
  const ListeningSocket socket_;
  const ControlListenerOptions options_;
  streams::internal::PollRegistration* registration_ = nullptr;
  streams::Timer pause_;
  streams::Timer continue_;
  absl::Duration next_pause_;
  uint64_t accepted_ = 0;
  uint64_t refused_ = 0;
  absl::Time next_complaint_ = absl::InfinitePast();
};

}  // namespace sockbroker::server
