// One end of a socket, as people read it.
//
//   EndpointText(connection.peer());  // "127.0.0.1:6379", "[::1]:80", "/run/x.sock", "@abstract"
//                                     // or, for one without a name, "-"
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "sockbroker/v1/endpoint.pb.h"

namespace sockbroker::client {

std::string EndpointText(const v1::Endpoint& endpoint);
// A Unix path with a leading NUL (Linux's abstract namespace) shown as "@"; other bytes as they
// are.
std::string UnixPathText(absl::string_view path);
// The other way round, for what people type: a leading "@" means the abstract namespace. "./@x"
// names a file.
std::string UnixPathFromText(absl::string_view text);
// "HOST PORT", as nc says it; a Unix path alone.
std::string HostPortText(const v1::Endpoint& endpoint);

}  // namespace sockbroker::client
