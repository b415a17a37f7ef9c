// Flight: how many bytes of data may be on their way on one stream. What carries the stream takes
// whatever it is given, megabytes of it, and a small answer would wait behind all that; so pings
// stand among the data, and no more goes than a limit beyond the last one that was answered.
//
//   Flight flight;
//   flight.Begin(now);
//   while (flight.room() > 0 && more()) flight.Sent(send());
//   if (flight.PingDue()) send_ping(flight.Ping(now));              // behind that data
//   flight.OnPong(nonce, now);
//
// The limit holds while somebody with little to say shares the stream (Share): bulk alone hurts
// nobody, and is quicker the more is there for the next processor that gets a turn. It is small as
// long as that keeps the way busy, and grows on a long one: while it is what holds data back, and
// the round trip shows that nothing has queued up.
#pragma once

#include <cstdint>
#include <deque>

#include "absl/time/time.h"

namespace sockbroker::session {

class Flight {
 public:
  // Half a millisecond's worth on a way within a machine.
  static constexpr uint64_t kLeast = 256 << 10;
  static constexpr uint64_t kMost = 64 << 20;
  // After somebody had little to say for the last time: who says something less often can bear the
  // few milliseconds that bulk alone makes him wait.
  static constexpr absl::Duration kSharedFor = absl::Milliseconds(100);

  explicit Flight(uint64_t least = kLeast) : least_(least), limit_(least) {}

  void Begin(absl::Time now) { shared_ = now < shared_until_; }
  void Share(absl::Time now) {
    shared_until_ = now + kSharedFor;
    shared_ = true;
  }
  uint64_t room() const { return limit() > under_way() ? limit() - under_way() : 0; }
  void Sent(uint64_t bytes) { sent_ += bytes; }
  // There was data, but no room for it.
  void HeldBack() { held_back_ = true; }

  // Enough was sent since the last ping for another.
  bool PingDue() const { return sent_ - pinged_ >= (shared_ ? limit_ / 4 : kLeast); }
  // Nor was the round trip measured for a second.
  bool PingDue(absl::Time now) const { return PingDue() || now - last_ping_ >= absl::Seconds(1); }
  // The nonce of a ping that goes now, behind everything that was sent.
  uint64_t Ping(absl::Time now);
  void OnPong(uint64_t nonce, absl::Time now);

  uint64_t limit() const { return shared_ ? limit_ : kMost; }
  // The latest that was measured.
  absl::Duration round_trip() const { return round_trip_; }

 private:
  struct Mark {
    uint64_t nonce;
    uint64_t sent;
    absl::Time at;
  };
  uint64_t under_way() const { return sent_ - arrived_; }
  void Adapt();

  uint64_t least_;
  uint64_t limit_;
  bool shared_ = false;
  absl::Time shared_until_ = absl::InfinitePast();
  uint64_t sent_ = 0;
  uint64_t pinged_ = 0;   // what stood before the last ping
  uint64_t arrived_ = 0;  // what stood before the last ping that was answered
  std::deque<Mark> marks_;
  uint64_t nonce_ = 0;
  absl::Time last_ping_ = absl::InfinitePast();
  absl::Duration round_trip_ = absl::Milliseconds(1);
  absl::Duration shortest_ = absl::InfiniteDuration();
  // Since the limit last changed; what was sent before says nothing about it.
  bool held_back_ = false;
  uint64_t changed_at_ = 0;
};

}  // namespace sockbroker::session
