// ReceiveHalf: one direction of a connection at its receiver. It recognises duplicates, refuses
// gaps, and decides how far the sender may go: what was granted and not yet consumed is the window,
// which grows while it is what holds the sender back (the bandwidth-delay product is larger than
// the window).
//
//   ReceiveHalf in({}, /*window=*/65536);
//   absl::StatusOr<absl::Cord> fresh = in.OnData(offset, bytes);   // empty: all of it was there
//   in.Consume(fresh->size());                                     // the application has it
//   if (in.AckDue(in.consumed())) send(in.consumed(), in.TakeAck(in.consumed()));
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "session/position.h"

namespace sockbroker::session {

class ReceiveHalf {
 public:
  // `window`: how much may be on its way or waiting for the application, in bytes.
  ReceiveHalf(Position start, uint64_t window)
      : received_(start),
        seen_(start),
        consumed_(start),
        acked_(start),
        window_(window),
        edge_(start.offset + window) {}

  // The part of `bytes` that is new. kInvalidArgument for a gap, or for bytes beyond the edge.
  absl::StatusOr<absl::Cord> OnData(uint64_t offset, absl::Cord bytes);
  // True if the mark is new. kInvalidArgument for a gap.
  absl::StatusOr<bool> OnMark(Position at);
  // Decrypted data begins at `at`: what lies between is void. Also counts the mark.
  absl::StatusOr<bool> OnJump(Position at);

  // What was received and not consumed is not this stream's after all (it belongs to a TLS
  // handshake).
  void ForgetUnconsumed() {
    received_ = consumed_;
    unconsumed_marks_.clear();
  }

  // A new binding: its sender begins at `from`.
  void Restart(Position from) { seen_ = from; }

  // The application took so many bytes more, in order, and the marks that stand among and behind
  // them.
  void Consume(uint64_t bytes);

  // Whether the sender should hear that `taken` may be forgotten: it is a quarter of the window
  // further than what it heard last, or a mark, or the edge has moved as much. A client's `taken`
  // is what its application consumed; the broker's, what it has handed to the connection.
  bool AckDue(Position taken) const;
  // Whether there is anything at all that it has not heard.
  bool AckPending(Position taken) const { return taken != acked_ || target_edge() > edge_; }
  // The edge to tell it along with `taken`.
  uint64_t TakeAck(Position taken);

  // The window may grow to so much; it never shrinks by itself.
  void set_window(uint64_t window) { window_ = window; }
  uint64_t window() const { return window_; }
  // A sender that went through more than half of the window within two round trips is held back by
  // it.
  bool WantsLargerWindow(absl::Time now, absl::Duration round_trip);

  // Lets the window fall to `window` and gives the edge to ask the sender back to (Revoke). Until
  // it has answered, what it sends up to the old edge is still taken.
  uint64_t Revoke(uint64_t window);
  // The sender has answered: it will not pass `edge`.
  void OnRevoked(uint64_t edge);
  bool revoking() const { return revoked_edge_ > 0; }
  // Whether the sender has long not needed a window larger than `window`.
  bool HasUnusedWindow(uint64_t window, absl::Time now, absl::Duration round_trip) const;

  const Position& received() const { return received_; }
  const Position& consumed() const { return consumed_; }
  // How far the sender has come on this binding, duplicates counted: an ack must not name more,
  // though what an earlier binding brought may have been consumed meanwhile.
  const Position& seen() const { return seen_; }
  uint64_t edge() const { return edge_; }
  // Received and not yet consumed.
  uint64_t waiting() const { return received_.offset - consumed_.offset; }

 private:
  void Pass(Position mark);
  uint64_t target_edge() const { return consumed_.offset + window_; }

  Position received_;
  Position seen_;
  Position consumed_;
  Position acked_;
  std::vector<uint64_t> unconsumed_marks_;  // their offsets
  uint64_t window_;
  uint64_t edge_;
  uint64_t revoked_edge_ = 0;  // what the sender may still pass edge_ to; 0: nothing is revoked
  // For the growth: when this measurement began, and where.
  absl::Time epoch_began_ = absl::InfinitePast();
  uint64_t epoch_offset_ = 0;
};

}  // namespace sockbroker::session
