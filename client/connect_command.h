// `sockbroker connect`: a connection joined to stdin and stdout, with nc's habits.
//
//   ConnectOptions options{.target = {"127.0.0.1", "6379"}};
//   return RunConnect(address, options, &interrupt);
#pragma once

#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "client/broker_address.h"
#include "client/interrupt.h"
#include "client/tls_flags.h"

namespace sockbroker::client {

struct ConnectOptions {
  // HOST and ports, or with `unix_socket` a path.
  std::vector<std::string> target;
  bool unix_socket = false;
  // Absent: yes, but over TLS no.
  absl::optional<bool> half_close;
  // Seconds; negative: for ever.
  absl::optional<double> quit_after_input;
  absl::optional<double> timeout;
  bool scan = false;
  bool verbose = false;
  bool json = false;
  bool ipv4 = false;
  bool ipv6 = false;
  bool numeric = false;
  bool crlf = false;
  std::string source_address;
  std::string source_port;
  // Seconds the broker keeps it for when nobody has it; absent: the broker's default.
  absl::optional<double> lease;
  // Leave it open, and print its handle.
  bool detach = false;
  std::vector<std::string> labels;
  ClientTlsFlags tls;
};

// The program's exit status.
int RunConnect(const BrokerAddress& address, const ConnectOptions& options, Interrupt* interrupt);

}  // namespace sockbroker::client
