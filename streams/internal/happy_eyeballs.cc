#include "streams/internal/happy_eyeballs.h"

#include <algorithm>
#include <deque>

namespace sockbroker::streams::internal {

std::vector<SocketAddress> InterleaveFamilies(const std::vector<SocketAddress>& addresses,
                                              std::size_t first_family_count) {
  // One queue per family, in the order in which the families first appear.
  std::vector<std::deque<SocketAddress>> families;
  for (const SocketAddress& address : addresses) {
    auto family = std::find_if(families.begin(), families.end(), [&](const auto& queue) {
      return queue.front().family() == address.family();
    });
    if (family == families.end()) family = families.emplace(families.end());
    family->push_back(address);
  }
  std::vector<SocketAddress> order;
  const auto take_from = [&](std::deque<SocketAddress>& family) {
    if (family.empty()) return;
    order.push_back(family.front());
    family.pop_front();
  };
  // The first family has one turn of its own less than its count: its last comes with the round
  // robin.
  for (std::size_t i = 1; i < first_family_count && !families.empty(); ++i) {
    take_from(families.front());
  }
  while (order.size() < addresses.size()) {
    for (std::deque<SocketAddress>& family : families) take_from(family);
  }
  return order;
}

}  // namespace sockbroker::streams::internal
