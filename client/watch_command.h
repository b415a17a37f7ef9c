// `sockbroker watch`: what happens to our connections, as it happens.
//
//   return RunWatch(link, {.json = true}, &interrupt);
#pragma once

#include <string>
#include <vector>

#include "client/broker_link.h"
#include "client/interrupt.h"

namespace sockbroker::client {

struct WatchOptions {
  std::vector<std::string> labels;
  // An abbreviated handle of a server; only what it accepted.
  std::string server;
  bool json = false;
};

// Until interrupted, or nobody reads stdout. After a broken link it goes on behind the last event
// that was printed; a gap that could not be filled is printed as one.
int RunWatch(BrokerLink& link, const WatchOptions& options, Interrupt* interrupt);

// "12:00:00.123  opened    9f86d081  127.0.0.1:5000 - 127.0.0.1:80".
std::string EventText(const v1::ConnectionEvent& event);

}  // namespace sockbroker::client
