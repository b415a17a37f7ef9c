// Why no broker answers at a TCP address: looked into once it did not, because gRPC's words for it
// are neither people's nor kept from one version to the next.
//
//   WhyNoBroker(address)
//       ->  "Connection refused; start `sockbrokerd`, or name another with -b ADDRESS"
//       ->  "it wants TLS: --broker-cacert FILE, with --broker-cert FILE and --broker-key FILE"
#pragma once

#include <string>

#include "client/broker_address.h"

namespace sockbroker::client {

// What is the matter and what to do about it; "" when nothing is found. Blocks for at most some
// seconds. Not for Unix addresses: BrokerAddress::ProbeErrno.
std::string WhyNoBroker(const BrokerAddress& address);

}  // namespace sockbroker::client
