// `sockbroker connect -z`: which of these ports answer. Each is connected to and closed at once.
//
//   return ScanPorts(link, request, ports, {.verbose = true}, &interrupt);
#pragma once

#include <vector>

#include "client/broker_link.h"
#include "client/interrupt.h"
#include "client/json_output.h"
#include "client/port_range.h"

namespace sockbroker::client {

struct ScanOptions {
  // A line on stderr for each port, as nc has it.
  bool verbose = false;
  // A line of JSON on stdout for each port.
  bool json = false;
  // Tried at the same time.
  int at_once = 16;
};

// What came of one attempt, as every line has it: "open", and "peer" or "reason" and "error".
void AddProbe(const grpc::Status& status, const v1::Connection& connection, JsonLine* line);

// `request` has all but the port. Results come in the order of the ports. kExitOk if at least one
// answered (nc), the exit status of what went wrong else.
int ScanPorts(BrokerLink& link, const v1::OpenConnectionRequest& request,
              const std::vector<Port>& ports, const ScanOptions& options, Interrupt* interrupt);

}  // namespace sockbroker::client
