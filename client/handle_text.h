// Handles as people read and type them: hexadecimal, abbreviated like a git hash.
//
//   HandleText(connection.handle());                                  // "9f86d081884c7d65..."
//   absl::StatusOr<NamedHandle> named = ResolveHandle(link, "9f86");  // asks the broker
//   request.set_handle(named->handle);
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/broker_link.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/server.pb.h"

namespace sockbroker::client {

// An abbreviation has at least so many digits.
inline constexpr std::size_t kShortestAbbreviation = 4;

std::string HandleText(absl::string_view handle);

// The shortest length, at least 8 digits, at which each of these texts differs from all others.
std::size_t UniqueLength(std::vector<std::string> texts);

// What someone typed for a handle. An odd number of digits is fine.
class HandlePattern {
 public:
  // kInvalidArgument: not hexadecimal, or too short.
  static absl::StatusOr<HandlePattern> Parse(absl::string_view text);
  // The whole bytes of it, for a request's `handle_prefix`.
  const std::string& prefix() const { return prefix_; }
  // Also looks at a last odd digit.
  bool Matches(absl::string_view handle) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::string prefix_;
};

struct NamedHandle {
  std::string handle;
  // Else a connection.
  bool is_server = false;
};

enum class HandleKind { kConnection, kServer, kEither };

// The one handle of ours that begins so, open or remembered as closed. kNotFound, kInvalidArgument
// (not a handle), kFailedPrecondition (ambiguous: the message lists what matches), or what the call
// failed with (kUnavailable: no broker).
absl::StatusOr<NamedHandle> ResolveHandle(BrokerLink& link, absl::string_view text,
                                          HandleKind kind = HandleKind::kEither);

}  // namespace sockbroker::client
