#include "client/pem_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::client {

absl::StatusOr<std::string> ReadPemFile(absl::string_view option, const std::string& name) {
  errno = 0;
  std::ifstream file(name, std::ios::binary);
  if (!file.is_open()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", name, ": ", std::strerror(errno)));
  }
  // Unlike an iterator, this does not throw when it is a directory.
  std::ostringstream bytes;
  bytes << file.rdbuf();
  std::string content = std::move(bytes).str();
  if (!absl::StrContains(content, "-----BEGIN ")) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", name, " is not a PEM file"));
  }
  return content;
}

bool HasPrivateKey(absl::string_view pem) { return absl::StrContains(pem, "PRIVATE KEY-----"); }

bool HasEncryptedPrivateKey(absl::string_view pem) {
  return absl::StrContains(pem, "ENCRYPTED PRIVATE KEY-----") ||
         absl::StrContains(pem, "Proc-Type: 4,ENCRYPTED");
}

}  // namespace sockbroker::client
