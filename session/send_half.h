// SendHalf: one direction of a connection at its sender. It keeps what the receiver has not taken
// yet, knows what was sent on this binding, and never passes the edge that the receiver has
// granted.
//
//   SendHalf out({}, /*edge=*/65536);
//   out.Append(absl::Cord("hello"));
//   out.AddMark();                                     // eof, say
//   while (auto data = out.TakeData(65536)) send(data->offset, data->bytes);
//   if (auto mark = out.TakeMark()) send_mark(*mark);  // in its place behind the bytes
//   out.OnAck(taken, edge);                            // forgets, and may send further
//   out.Rewind(bound.write, bound.edge);               // after a break: goes on exactly there
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "session/position.h"

namespace sockbroker::session {

class SendHalf {
 public:
  // Nothing below `start` is this sender's to say.
  SendHalf(Position start, uint64_t edge) : taken_(start), sent_(start), end_(start), edge_(edge) {}

  void Append(absl::Cord bytes);
  // A mark behind everything that was appended: where it stands (its number is `marks`).
  Position AddMark();

  struct Data {
    uint64_t offset;
    absl::Cord bytes;
  };
  // The next bytes, at most `max`, up to the edge or the next mark. None: nothing may go now, or a
  // mark is next.
  std::optional<Data> TakeData(std::size_t max);
  // The next mark, if it is its turn. Marks need no window.
  std::optional<Position> TakeMark();
  bool CanSend() const { return MarkIsNext() || SendableBytes() > 0; }

  // The receiver has everything below `taken` and allows sending up to `edge`. An ack may come late
  // (nothing happens) but never claim what was not sent: kInvalidArgument.
  absl::Status OnAck(Position taken, uint64_t edge);
  // A new binding: the receiver has everything below `from`. kOutOfRange unless it lies within what
  // is kept.
  absl::Status Rewind(Position from, uint64_t edge);
  // The receiver wants room back: the edge falls to `edge`, but not below what was sent. Returns
  // where it is now.
  uint64_t LowerEdge(uint64_t edge);

  // From here on nothing at or above `from` is this stream's: it was taken back (it belongs to a
  // TLS handshake). What comes next stands at end(): no offset ever names two bytes. The receiver
  // has consumed everything below `from`. Gives back the bytes.
  absl::Cord TakeBack(uint64_t from);

  // The bytes of [from, end), for whoever takes the stream over.
  absl::Cord Kept(uint64_t from) const;

  const Position& taken() const { return taken_; }
  const Position& sent() const { return sent_; }
  const Position& end() const { return end_; }
  uint64_t edge() const { return edge_; }
  std::size_t kept_bytes() const { return kept_.size(); }

 private:
  uint64_t SendableBytes() const;
  bool MarkIsNext() const;
  void Forget(Position taken);

  Position taken_;  // the receiver has everything below
  Position sent_;   // on this binding
  Position end_;
  uint64_t edge_;
  absl::Cord kept_;  // the bytes of [taken_.offset, end_.offset)
  // The offsets of marks taken_.marks, taken_.marks + 1, ...; few, and no memory when there are
  // none.
  std::vector<uint64_t> marks_;
  // Offsets in [void_from_, taken_.offset) name no bytes: see TakeBack.
  std::optional<uint64_t> void_from_;
};

}  // namespace sockbroker::session
