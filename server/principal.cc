#include "server/principal.h"

#include "absl/strings/match.h"

namespace sockbroker::server {

std::shared_ptr<const Principal> PrincipalOfPeer(absl::string_view peer) {
  static const auto* const owner = new std::shared_ptr<const Principal>(
      new Principal{.name = "unix", .may_use_unix = true, .may_adopt = true, .rule = ""});
  static const auto* const loopback = new std::shared_ptr<const Principal>(
      new Principal{.name = "insecure-loopback", .rule = "insecure-loopback"});
  if (absl::StartsWith(peer, "unix:") || absl::StartsWith(peer, "unix-abstract:") ||
      absl::StartsWith(peer, "inproc")) {
    return *owner;
  }
  return *loopback;
}

}  // namespace sockbroker::server
