// DefaultBrokerSeed: what a broker's id is made of when --broker-id does not say.
//
//   auto seed = DefaultBrokerSeed(ThisHost(), {"unix:/run/sockbroker/sockbroker.sock"});
//   BrokerIdentity::Draw(seed);  // the same id after a restart: handles are LOST, not foreign
#pragma once

#include <string>
#include <vector>

namespace sockbroker::server {

// Where the broker runs.
struct Host {
  // machine-id(5); "" where there is none, as in most containers.
  std::string machine_id;
  // In a container its id, unless it was given one; so containers of one image differ.
  std::string name;
};

Host ThisHost();

// The same host and the same listeners are the same broker: two live ones cannot have an address
// between them. "" (a random id) when the host has no name of any kind.
std::string DefaultBrokerSeed(const Host& host, const std::vector<std::string>& addresses);

}  // namespace sockbroker::server
