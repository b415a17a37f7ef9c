// SocketOptions: what can be set on a socket. What is absent stays as the kernel has it, except
// that TCP sockets get TCP_NODELAY, as in asyncio.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace sockbroker::streams {

struct SocketOptions {
  std::optional<bool> nodelay;                       // TCP_NODELAY
  std::optional<bool> keepalive;                     // SO_KEEPALIVE
  std::optional<absl::Duration> keepalive_idle;      // TCP_KEEPIDLE, whole seconds, 1 to 32767
  std::optional<absl::Duration> keepalive_interval;  // TCP_KEEPINTVL, likewise
  std::optional<int> keepalive_count;                // TCP_KEEPCNT, 1 to 127
  std::optional<absl::Duration> user_timeout;        // TCP_USER_TIMEOUT, milliseconds
  std::optional<absl::Duration> linger;              // SO_LINGER, whole seconds; zero: close resets
  std::optional<int> receive_buffer;                 // SO_RCVBUF, bytes
  std::optional<int> send_buffer;                    // SO_SNDBUF, bytes
  std::optional<int> tos;                            // IP_TOS / IPV6_TCLASS, 0 to 255
  std::optional<uint32_t> mark;                      // SO_MARK
  std::optional<std::string> bind_to_device;         // SO_BINDTODEVICE
  std::optional<bool> freebind;                      // IP_FREEBIND

  // Sets everything that is present on `fd` (TCP-only options are skipped on Unix sockets). The
  // status names the option that the kernel refused.
  absl::Status ApplyTo(int fd) const;
};

}  // namespace sockbroker::streams
