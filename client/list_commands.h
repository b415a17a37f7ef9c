// `sockbroker ls` and `sockbroker servers`: what of ours the broker holds.
//
//   return RunListConnections(link, {.labels = {"job=42"}, .json = true});
#pragma once

#include <string>
#include <vector>

#include "client/broker_link.h"

namespace sockbroker::client {

struct ListOptions {
  std::vector<std::string> labels;
  // Also closed ones, as long as the broker remembers them.
  bool all = false;
  bool json = false;
  // Handles alone, whole, one a line.
  bool quiet = false;
  // Of ls: an abbreviated handle of a server; only what it accepted.
  std::string server;
};

int RunListConnections(BrokerLink& link, const ListOptions& options);
int RunListServers(BrokerLink& link, const ListOptions& options);

// "open", "peer-eof" (it has ended its direction), "eof-sent" (we have ours), "both-eof",
// "closing", "closed".
std::string StateText(const v1::Connection& connection);

}  // namespace sockbroker::client
