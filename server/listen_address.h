// ListenAddress: where the broker itself can be reached, as `--listen` says it, and what is
// refused.
//
//   auto a = ParseListenAddress("unix:/run/user/1000/broker.sock", policy);
//   auto b = ParseListenAddress("127.0.0.1:0", {.insecure_loopback = true});
//   auto c = ParseListenAddress("fd:control", policy);  // socket activation
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "streams/address.h"

namespace sockbroker::server {

struct ListenPolicy {
  // Plain TCP on loopback: every local user could then borrow the broker's rights, so it must be
  // asked for by name.
  bool insecure_loopback = false;
  // There are certificates for mutual TLS: TCP listeners speak it, but for those on loopback when
  // `insecure_loopback` is set.
  bool mutual_tls = false;
};

struct ListenAddress {
  // Unix (a path, absolute or relative) or TCP; unknown when `inherited` is set.
  streams::SocketAddress address;
  // The name of a listening descriptor that the broker was started with.
  std::string inherited;
};

// "unix:PATH", "unix:///ABSOLUTE/PATH", "127.0.0.1:PORT", "[::1]:PORT", "localhost:PORT" (that is
// 127.0.0.1) or "fd:NAME". kInvalidArgument: none of these; kPermissionDenied: beyond loopback, or
// plain TCP that was not asked for. The message says what to do.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text,
                                                 const ListenPolicy& policy);

// In the form in which `--listen` takes it.
std::string ToString(const ListenAddress& address);

// Whether the policy lets the broker listen there: for inherited descriptors, whose address is
// known only when they are taken.
absl::Status CheckListenAddress(const streams::SocketAddress& address, const ListenPolicy& policy);

// Whether a listener there, if the policy lets it be, speaks mutual TLS.
bool SpeaksTls(const streams::SocketAddress& address, const ListenPolicy& policy);

// $XDG_RUNTIME_DIR/sockbroker/sockbroker.sock; for root /run/sockbroker/sockbroker.sock.
// kNotFound: neither, `--listen` must say.
absl::StatusOr<std::string> DefaultListenPath();

}  // namespace sockbroker::server
