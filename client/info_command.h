// `sockbroker info HANDLE`: everything the broker tells of one connection or server.
//
//   return RunInfo(link, "9f86", /*json=*/false);
#pragma once

#include <string>

#include "client/broker_link.h"

namespace sockbroker::client {

// A closed one is shown as long as the broker remembers it.
int RunInfo(BrokerLink& link, const std::string& handle, bool json);

}  // namespace sockbroker::client
