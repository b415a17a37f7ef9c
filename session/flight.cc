#include "session/flight.h"

#include <algorithm>

namespace sockbroker::session {

uint64_t Flight::Ping(absl::Time now) {
  last_ping_ = now;
  pinged_ = sent_;
  marks_.push_back({++nonce_, sent_, now});
  return nonce_;
}

void Flight::OnPong(uint64_t nonce, absl::Time now) {
  // They come in order: one answer stands for those before it, too. Whatever else comes is
  // nobody's.
  if (marks_.empty() || nonce < marks_.front().nonce || nonce > nonce_) return;
  while (marks_.front().nonce != nonce) marks_.pop_front();
  const Mark mark = marks_.front();
  marks_.pop_front();
  arrived_ = mark.sent;
  round_trip_ = std::max(now - mark.at, absl::Microseconds(100));
  shortest_ = std::min(shortest_, round_trip_);
  if (shared_ && mark.sent > changed_at_) Adapt();
}

void Flight::Adapt() {
  uint64_t limit = limit_;
  // The shortest may be one that had queued up too, as the first often is: what is near it says
  // that the way is long, what is at a distance that there is a queue.
  if (held_back_ && round_trip_ < 1.25 * shortest_) limit = std::min(2 * limit, kMost);
  if (round_trip_ > 2 * shortest_) limit = std::max(limit / 2, least_);
  held_back_ = false;
  if (limit == limit_) return;
  limit_ = limit;
  changed_at_ = sent_;
}

}  // namespace sockbroker::session
