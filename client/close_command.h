// `sockbroker close HANDLE...`: ends connections and servers.
//
//   return RunClose(link, {.handles = {"9f86"}, .abort = true});
#pragma once

#include <string>
#include <vector>

#include "client/broker_link.h"

namespace sockbroker::client {

struct CloseOptions {
  std::vector<std::string> handles;
  // Connections are reset instead of flushed.
  bool abort = false;
  // With a server also what it accepted.
  bool clients = false;
};

// Does all it can: the exit status is that of the first that failed.
int RunClose(BrokerLink& link, const CloseOptions& options);

}  // namespace sockbroker::client
