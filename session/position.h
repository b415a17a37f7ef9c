// Position: a place in one direction of a connection: so many bytes, and so many marks. Marks (eof,
// start_tls, close) stand among the bytes and are counted over the whole life of the connection, so
// a place is the pair of the two.
#pragma once

#include <compare>
#include <cstdint>

namespace sockbroker::session {

struct Position {
  uint64_t offset = 0;
  uint32_t marks = 0;
  friend auto operator<=>(const Position&, const Position&) = default;
};

}  // namespace sockbroker::session
