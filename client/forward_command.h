// `sockbroker forward`: ports that lead through the broker, as ssh's -L, -R, -D and -W.
//
//   ForwardOptions options{.local = {"8080:db.internal:80"}, .verbose = 1};
//   return RunForward(address, options, &interrupt);
//
// All forwards of one call share one Session with the broker, on one event loop. A broken link to
// the broker is waited for: connections go on at the exact byte, new ones wait.
#pragma once

#include <string>
#include <vector>

#include "client/broker_address.h"
#include "client/interrupt.h"

namespace sockbroker::client {

struct ForwardOptions {
  // As typed; see forward_spec.h.
  std::vector<std::string> local;
  std::vector<std::string> remote;
  std::vector<std::string> dynamic;
  std::string stdio;
  // 1: a line of status; 2: every connection, too.
  int verbose = 0;
  bool json = false;
  std::vector<std::string> labels;
};

// The program's exit status.
int RunForward(const BrokerAddress& address, const ForwardOptions& options, Interrupt* interrupt);

}  // namespace sockbroker::client
