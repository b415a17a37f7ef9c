// ForwardSpec: what is typed behind -L, -R, -D and -W, in ssh's grammar.
//
//   ParseListenAndTarget('L', "8080:db:80")  ->  loopback:8080 to db:80
//   ParseListenAndTarget('L', "*:0:/run/x")  ->  every interface, to a Unix socket
//   ParseDynamic("[::1]:1080")               ->  no target
//
// IPv6 addresses stand in brackets. What has a '/' in it or begins with '@' (Linux's abstract
// namespace) is the path of a Unix socket; "\:" is a colon of such a path.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/port_range.h"

namespace sockbroker::client {

struct ForwardPlace {
  // As typed; "@..." is not translated yet. Empty: TCP.
  std::string unix_path;
  // Where to listen: "" is loopback, "*" every interface. A target always has one.
  std::string host;
  Port port;

  bool is_unix() const { return !unix_path.empty(); }
  // "db.internal:80", "[::1]:80", "/run/app.sock"; "localhost:8080" for loopback.
  std::string Text() const;

  bool operator==(const ForwardPlace&) const = default;
};

struct ForwardSpec {
  ForwardPlace listen;
  ForwardPlace target;

  // kInvalidArgument, with what is expected.
  // -L and -R: [BIND:]PORT:HOST:HOSTPORT, where a path may stand for either half.
  static absl::StatusOr<ForwardSpec> ParseListenAndTarget(char option, absl::string_view text);
  // -D: [BIND:]PORT.
  static absl::StatusOr<ForwardSpec> ParseDynamic(absl::string_view text);
  // -W: HOST:PORT or a path; only a target.
  static absl::StatusOr<ForwardSpec> ParseStdio(absl::string_view text);
};

// Whether it can be asked of the broker as a name or an address: printable ASCII, at most 255.
bool IsPlausibleHost(absl::string_view host);

}  // namespace sockbroker::client
