// Principal: who a call comes from, and what that alone forbids. Every handle belongs to one.
//
//   std::shared_ptr<const Principal> caller = PrincipalOfPeer(context->peer());
//   if (!caller->may_use_unix) return Denied(caller->rule, "...");
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace sockbroker::server {

struct Principal {
  // "unix", "insecure-loopback"; later: a certificate's identity. Two callers with one name are one
  // principal.
  std::string name;
  // Unix sockets as targets or servers, and adopted descriptors: both would lend a caller the
  // broker's own rights.
  bool may_use_unix = false;
  bool may_adopt = false;
  // What to name when one of these is refused.
  std::string rule;
};

// From ServerContext's peer(): whoever came through the broker's Unix socket (or from inside its
// process) is its owner; everyone else is "insecure-loopback", since plain TCP is only ever served
// there.
std::shared_ptr<const Principal> PrincipalOfPeer(absl::string_view peer);

}  // namespace sockbroker::server
