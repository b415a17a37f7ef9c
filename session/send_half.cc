#include "session/send_half.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sockbroker::session {

void SendHalf::Append(absl::Cord bytes) {
  end_.offset += bytes.size();
  kept_.Append(std::move(bytes));
}

Position SendHalf::AddMark() {
  const Position at = end_;
  marks_.push_back(at.offset);
  end_.marks++;
  return at;
}

bool SendHalf::MarkIsNext() const {
  return sent_.marks < end_.marks && marks_[sent_.marks - taken_.marks] == sent_.offset;
}

uint64_t SendHalf::SendableBytes() const {
  uint64_t until = std::min(end_.offset, edge_);
  if (sent_.marks < end_.marks) until = std::min(until, marks_[sent_.marks - taken_.marks]);
  return until > sent_.offset ? until - sent_.offset : 0;
}

std::optional<SendHalf::Data> SendHalf::TakeData(std::size_t max) {
  const uint64_t size = std::min<uint64_t>(SendableBytes(), max);
  if (size == 0) return std::nullopt;
  Data data{sent_.offset, kept_.Subcord(sent_.offset - taken_.offset, size)};
  sent_.offset += size;
  return data;
}

std::optional<Position> SendHalf::TakeMark() {
  if (!MarkIsNext()) return std::nullopt;
  const Position at = sent_;
  sent_.marks++;
  return at;
}

void SendHalf::Forget(Position taken) {
  kept_.RemovePrefix(taken.offset - taken_.offset);
  marks_.erase(marks_.begin(), marks_.begin() + (taken.marks - taken_.marks));
  taken_ = taken;
}

absl::Status SendHalf::OnAck(Position taken, uint64_t edge) {
  // Both coordinates count: "10 bytes, 1 mark" when the mark stands behind byte 20 is no place of
  // this stream.
  if (taken.offset > sent_.offset || taken.marks > sent_.marks) {
    return absl::InvalidArgumentError(absl::StrCat("ack of ", taken.offset, " bytes and ",
                                                   taken.marks, " marks, but only ", sent_.offset,
                                                   " and ", sent_.marks, " were sent"));
  }
  edge_ = std::max(edge_, edge);
  const Position forward{std::max(taken.offset, taken_.offset),
                         std::max(taken.marks, taken_.marks)};
  if (forward.marks > taken_.marks && marks_[forward.marks - 1 - taken_.marks] > forward.offset) {
    return absl::InvalidArgumentError("ack of a mark whose bytes were not acked");
  }
  Forget(forward);
  return absl::OkStatus();
}

absl::Status SendHalf::Rewind(Position from, uint64_t edge) {
  if (void_from_.has_value() && from.offset >= *void_from_ && from.offset < taken_.offset) {
    from.offset = taken_.offset;
  }
  const bool within = from.offset >= taken_.offset && from.offset <= end_.offset &&
                      from.marks >= taken_.marks && from.marks <= end_.marks;
  if (!within) {
    return absl::OutOfRangeError(absl::StrCat("offset ", from.offset, " is outside what is held, ",
                                              taken_.offset, " to ", end_.offset));
  }
  Forget(from);
  sent_ = from;
  edge_ = edge;
  return absl::OkStatus();
}

uint64_t SendHalf::LowerEdge(uint64_t edge) {
  edge_ = std::min(edge_, std::max(edge, sent_.offset));
  return edge_;
}

absl::Cord SendHalf::TakeBack(uint64_t from) {
  from = std::max(from, taken_.offset);
  absl::Cord back = kept_.Subcord(from - taken_.offset, end_.offset - from);
  void_from_ = from;
  kept_.Clear();
  taken_.offset = end_.offset;
  sent_.offset = end_.offset;
  return back;
}

absl::Cord SendHalf::Kept(uint64_t from) const {
  from = std::max(from, taken_.offset);
  return kept_.Subcord(from - taken_.offset, end_.offset - from);
}

}  // namespace sockbroker::session
