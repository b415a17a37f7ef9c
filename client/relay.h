// Relay: joins a socket of this process and a connection of the broker's, until both have ended.
//
//   RelayTraffic traffic;
//   RelayEnd end = co_await Relay::Run(std::move(local), std::move(remote), &traffic);
//
// Each direction's end (FIN) is passed on behind its bytes, the other direction goes on; a reset is
// passed on as a reset. What arrives is written on in the same turn of the loop, without a
// coroutine and without a copy: the reading stops while too much of it waits on the other side.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "client/cpp/connection.h"
#include "streams/connection.h"
#include "streams/task.h"

namespace sockbroker::client {

// Bytes of any number of relays.
struct RelayTraffic {
  uint64_t sent = 0;      // from sockets here to the broker
  uint64_t received = 0;  // the other way
};

// What ended it; both OK: both directions came to their ends.
struct RelayEnd {
  absl::Status local;
  absl::Status remote;
};

class Relay {
 public:
  // Cancelled, it resets both. `traffic` must outlive it.
  static streams::Task<RelayEnd> Run(streams::Connection local, Connection remote,
                                     RelayTraffic* traffic);
};

}  // namespace sockbroker::client
