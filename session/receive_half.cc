#include "session/receive_half.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::session {
namespace {

constexpr absl::Duration kUnusedAfter = absl::Seconds(1);

}  // namespace

absl::StatusOr<absl::Cord> ReceiveHalf::OnData(uint64_t offset, absl::Cord bytes) {
  if (offset > received_.offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("data at offset ", offset, " leaves a gap behind ", received_.offset));
  }
  const uint64_t edge = std::max(edge_, revoked_edge_);
  if (offset + bytes.size() > edge) {
    return absl::InvalidArgumentError(
        absl::StrCat("data up to offset ", offset + bytes.size(), " passes the edge ", edge));
  }
  seen_.offset = std::max(seen_.offset, offset + bytes.size());
  const uint64_t known = std::min<uint64_t>(received_.offset - offset, bytes.size());
  bytes.RemovePrefix(known);
  received_.offset += bytes.size();
  return bytes;
}

void ReceiveHalf::Pass(Position mark) {
  seen_.offset = std::max(seen_.offset, mark.offset);
  seen_.marks = std::max(seen_.marks, mark.marks + 1);
}

absl::StatusOr<bool> ReceiveHalf::OnMark(Position at) {
  Pass(at);
  if (at.marks < received_.marks) return false;
  if (at != received_) {
    return absl::InvalidArgumentError(absl::StrCat("mark ", at.marks, " at offset ", at.offset,
                                                   " leaves a gap behind ", received_.marks,
                                                   " marks at offset ", received_.offset));
  }
  received_.marks++;
  unconsumed_marks_.push_back(at.offset);
  Consume(0);
  return true;
}

absl::StatusOr<bool> ReceiveHalf::OnJump(Position at) {
  Pass(at);
  if (at.marks < received_.marks) return false;
  if (at.marks != received_.marks || at.offset < received_.offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("a jump back to offset ", at.offset, " from ", received_.offset));
  }
  // What lay between is nobody's; the window moves along.
  const uint64_t skipped = at.offset - consumed_.offset;
  received_ = {at.offset, at.marks + 1};
  consumed_ = received_;
  unconsumed_marks_.clear();
  edge_ = std::max(edge_, std::min(edge_ + skipped, target_edge()));
  return true;
}

void ReceiveHalf::Consume(uint64_t bytes) {
  consumed_.offset += bytes;
  while (!unconsumed_marks_.empty() && unconsumed_marks_.front() <= consumed_.offset) {
    unconsumed_marks_.erase(unconsumed_marks_.begin());
    consumed_.marks++;
  }
}

bool ReceiveHalf::AckDue(Position taken) const {
  return taken.marks != acked_.marks || taken.offset - acked_.offset >= window_ / 4 ||
         (target_edge() > edge_ && target_edge() - edge_ >= window_ / 4);
}

uint64_t ReceiveHalf::TakeAck(Position taken) {
  edge_ = std::max(edge_, target_edge());
  acked_ = taken;
  return edge_;
}

bool ReceiveHalf::WantsLargerWindow(absl::Time now, absl::Duration round_trip) {
  if (consumed_.offset - epoch_offset_ < window_ / 2) return false;
  const bool held_back = now - epoch_began_ < 2 * round_trip;
  epoch_began_ = now;
  epoch_offset_ = consumed_.offset;
  return held_back;
}

bool ReceiveHalf::HasUnusedWindow(uint64_t window, absl::Time now,
                                  absl::Duration round_trip) const {
  // Half of it within this time would have begun another measurement.
  return window_ > window && now - epoch_began_ > std::max(kUnusedAfter, 4 * round_trip);
}

uint64_t ReceiveHalf::Revoke(uint64_t window) {
  window_ = window;
  revoked_edge_ = edge_;
  edge_ = std::min(edge_, received_.offset + window);
  return edge_;
}

void ReceiveHalf::OnRevoked(uint64_t edge) {
  // What was under way when the sender heard of it may have passed what was asked for.
  edge_ = std::max({edge_, received_.offset, std::min(edge, std::exchange(revoked_edge_, 0))});
}

}  // namespace sockbroker::session
