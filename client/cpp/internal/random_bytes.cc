#include "client/cpp/internal/random_bytes.h"

#include <sys/random.h>

#include <cstdlib>

namespace sockbroker::client::internal {

std::string RandomBytes(std::size_t size) {
  std::string bytes(size, '\0');
  // At most 256 bytes at once never come short, nor interrupted.
  if (size > 256 || getrandom(bytes.data(), size, 0) != static_cast<ssize_t>(size)) std::abort();
  return bytes;
}

}  // namespace sockbroker::client::internal
