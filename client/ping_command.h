// `sockbroker ping`: whether the broker serves, asked of its health service, as container engines
// and load balancers ask.
//
//   return RunPing(address, {.wait = 30});           // as soon as it serves; gives up after 30 s
#pragma once

#include "client/broker_address.h"

namespace sockbroker::client {

struct PingOptions {
  // How many seconds a broker that is not there, or is ending, is waited for.
  double wait = 0;
};

// Prints `serving`. kExitNoBroker when nobody answers, kExitFailed when the broker answers that it
// does not serve: it is ending.
int RunPing(const BrokerAddress& address, const PingOptions& options);

}  // namespace sockbroker::client
