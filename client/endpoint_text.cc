#include "client/endpoint_text.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::client {

std::string UnixPathText(absl::string_view path) {
  if (!path.empty() && path[0] == '\0') return absl::StrCat("@", path.substr(1));
  return std::string(path);
}

std::string UnixPathFromText(absl::string_view text) {
  if (!absl::StartsWith(text, "@")) return std::string(text);
  std::string path(text);
  path[0] = '\0';
  return path;
}

std::string EndpointText(const v1::Endpoint& endpoint) {
  switch (endpoint.kind_case()) {
    case v1::Endpoint::kTcp:
      return absl::StrContains(endpoint.tcp().host(), ':')
                 ? absl::StrCat("[", endpoint.tcp().host(), "]:", endpoint.tcp().port())
                 : absl::StrCat(endpoint.tcp().host(), ":", endpoint.tcp().port());
    case v1::Endpoint::kUnix:
      return endpoint.unix().empty() ? "-" : UnixPathText(endpoint.unix());
    case v1::Endpoint::kAdopted:
      return absl::StrCat("adopted:", endpoint.adopted());
    case v1::Endpoint::KIND_NOT_SET:
      break;
  }
  return "-";
}

std::string HostPortText(const v1::Endpoint& endpoint) {
  if (endpoint.kind_case() == v1::Endpoint::kTcp) {
    return absl::StrCat(endpoint.tcp().host(), " ", endpoint.tcp().port());
  }
  return EndpointText(endpoint);
}

}  // namespace sockbroker::client
