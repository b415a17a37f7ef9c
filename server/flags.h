// Flags: what sockbrokerd's command line says.
//
//   std::variant<Flags, int> parsed = ParseFlags(argc, argv);
//   if (const int* status = std::get_if<int>(&parsed)) return *status;  // --help, or a mistake
//   Run(std::get<Flags>(parsed));
#pragma once

#include <spdlog/common.h>

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "server/listen_address.h"
#include "server/logging.h"

namespace sockbroker::server {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

struct Flags {
  // Never empty; none is there twice, but for ports that are 0.
  std::vector<ListenAddress> listen;
  bool insecure_loopback = false;
  // Mutual TLS for TCP listeners; all three or none.
  std::string tls_cert;
  std::string tls_key;
  std::string tls_client_ca;
  bool allow_all = false;
  absl::Duration drain_timeout = absl::Seconds(8);
  // 0: one per core.
  int loops = 0;
  std::string broker_id;
  absl::Duration lease = absl::Seconds(60);
  std::string tls_store;    // "": there is none
  std::string tls_key_log;  // a file; "": nobody gets the secrets
  // 0: as many as descriptors allow.
  std::size_t max_connections = 0;
  std::size_t max_servers = 0;
  // Bytes; 0: the broker's own choice.
  std::size_t buffer_memory = 0;
  std::size_t buffer_memory_per_principal = 0;
  std::size_t buffer_memory_per_connection = 0;
  spdlog::level::level_enum log_level = spdlog::level::info;
  LogFormat log_format = LogFormat::kText;

  ListenPolicy listen_policy() const {
    return {.insecure_loopback = insecure_loopback, .mutual_tls = !tls_cert.empty()};
  }
};

// The flags, or the status to exit with: 0 after --help and --version (printed on stdout),
// kExitUsage after a mistake, kExitFailure when there is no default to listen on (both explained on
// stderr).
std::variant<Flags, int> ParseFlags(int argc, const char* const* argv);

// What --help prints.
std::string HelpText();

}  // namespace sockbroker::server
