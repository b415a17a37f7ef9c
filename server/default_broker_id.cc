#include "server/default_broker_id.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sockbroker::server {
namespace {

std::string FirstWord(const char* path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

// A relative path names a socket only together with the directory it was said in.
std::string Absolute(const std::string& address) {
  constexpr absl::string_view kUnix = "unix:";
  if (!absl::StartsWith(address, kUnix)) return address;
  const std::filesystem::path path(std::string(absl::StripPrefix(address, kUnix)));
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? address : absl::StrCat(kUnix, absolute.lexically_normal().string());
}

}  // namespace

Host ThisHost() {
  Host host;
  host.machine_id = FirstWord("/etc/machine-id");
  // What systemd writes there before the first boot is done is nobody's id.
  if (host.machine_id == "uninitialized") host.machine_id.clear();
  char name[256] = "";
  if (gethostname(name, sizeof(name) - 1) == 0) host.name = name;
  return host;
}

std::string DefaultBrokerSeed(const Host& host, const std::vector<std::string>& addresses) {
  if (host.machine_id.empty() && (host.name.empty() || host.name == "localhost")) return "";
  // The machine's id is to be known to nobody outside: the seed is only ever hashed, and the
  // purpose in front keeps other programs' hashes apart.
  std::string seed = absl::StrCat("sockbrokerd\n", host.machine_id, "\n", host.name, "\n");
  for (const std::string& address : addresses) absl::StrAppend(&seed, Absolute(address), "\n");
  return seed;
}

}  // namespace sockbroker::server
