// `sockbroker listen`: serves connections with stdin and stdout, or each with a command of its own.
//
//   ListenOptions options{.target = {"127.0.0.1", "0"}, .keep = true, .exec = "cat"};
//   return RunListen(address, options, &interrupt);
#pragma once

#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "client/broker_address.h"
#include "client/interrupt.h"
#include "client/tls_flags.h"

namespace sockbroker::client {

struct ListenOptions {
  // [HOST] PORT, or with `unix_socket` a path.
  std::vector<std::string> target;
  bool unix_socket = false;
  // Serve more than one connection.
  bool keep = false;
  // A command for each, run by sh.
  std::string exec;
  // With `keep` and `exec`: served at the same time. Others wait in the kernel's backlog.
  int max_connections = 64;
  // Absent: yes, but over TLS no.
  absl::optional<bool> half_close;
  // Seconds.
  absl::optional<double> quit_after_input;
  absl::optional<double> timeout;
  bool verbose = false;
  bool json = false;
  bool ipv4 = false;
  bool ipv6 = false;
  bool numeric = false;
  bool crlf = false;
  // Seconds the broker keeps a connection for when nobody has it; absent: the broker's default.
  absl::optional<double> lease;
  std::string name;
  std::vector<std::string> labels;
  ServerTlsFlags tls;
};

// The program's exit status.
int RunListen(const BrokerAddress& address, const ListenOptions& options, Interrupt* interrupt);

}  // namespace sockbroker::client
