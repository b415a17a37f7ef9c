// So many random bytes from the system: request ids, holders.
#pragma once

#include <cstddef>
#include <string>

namespace sockbroker::client::internal {

std::string RandomBytes(std::size_t size);

}  // namespace sockbroker::client::internal
