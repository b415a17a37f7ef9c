// Mux: what one end of a session has to say, as messages. Control frames go first, then acks, then
// data in fair turns, as much as may be on its way; what is ready when the link takes the next
// message goes together.
//
//   mux.Control(frame);                        // an answer, a fence: in order, before any data
//   mux.Ready(channel);                        // it has (or may have) something to send
//   mux.AckLater(channel);                     // its receive side may have something to tell
//   while (link_free && mux.HasOutput()) link.Write(mux.NextBatch(now));
//
// Both ends are made of this: the broker's channels refill from sockets, the client's from their
// applications.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/cord.h"
#include "session/fair_queue.h"
#include "session/flight.h"
#include "session/frame_codec.h"
#include "session/receive_half.h"
#include "session/send_half.h"

namespace sockbroker::session {

inline constexpr std::size_t kTurn = 64 * 1024;
inline constexpr std::size_t kBatch = 256 * 1024;
// How long an ack that is not due waits.
inline constexpr absl::Duration kAckDelay = absl::Milliseconds(40);

// One channel of a session, at either end.
class MuxChannel {
 public:
  MuxChannel(uint32_t channel_number, SendHalf send, ReceiveHalf receive)
      : number(channel_number), out(std::move(send)), in(std::move(receive)) {}
  virtual ~MuxChannel() {
    hook.Unlink();
    ack.hook.Unlink();
  }
  MuxChannel(const MuxChannel&) = delete;
  MuxChannel& operator=(const MuxChannel&) = delete;

  uint32_t number;
  SendHalf out;
  ReceiveHalf in;

 protected:
  friend class Mux;
  friend class FairQueue<MuxChannel>;

  // Appends what its source has now to `out`, about `max` bytes, marks included; nothing if it has
  // nothing.
  virtual void Refill(std::size_t max) = 0;
  // Writes the frame of a mark of `out`.
  virtual void WriteMark(Position at, FrameWriter* writer) = 0;
  // Everything that `out` had was sent: writes the channel's last frame, if it is time. True: the
  // channel is done, and is not touched any more.
  virtual bool WriteEnd(FrameWriter* /*writer*/) { return false; }
  // Some of its data has gone into a message. It must survive the call.
  virtual void OnSent() {}
  // What an ack may say was taken.
  virtual Position Taken() const = 0;
  // For the ack: see Ack.flushed.
  virtual uint64_t Flushed() const { return 0; }

  FairQueueHook hook;
  // Turns to go until it counts as one of those that have little to say.
  int bulky = 0;
  // A second queue needs a second hook.
  struct AckEntry {
    FairQueueHook hook;
    MuxChannel* channel = nullptr;
    bool due = false;  // it stands among those that go with the next message
  } ack;
};

class Mux {
 public:
  // `write_ping`: each end has a frame of its own for it. `flight`: see Flight.
  using WritePing = void(uint64_t nonce, FrameWriter* writer);
  explicit Mux(WritePing* write_ping, uint64_t flight = Flight::kLeast)
      : write_ping_(write_ping), least_flight_(flight), flight_(flight) {}

  // In front of everything else, in the order of the calls.
  template <typename Frame>
  void Control(const Frame& frame) {
    control_.Add(frame);
  }
  void Ready(MuxChannel* channel) { ready_.Add(channel); }
  // With the next message, if it is due; else with the next AckPending.
  void AckLater(MuxChannel* channel);
  // Its ack goes out with the control frames, because it will not be there later.
  void AckNow(MuxChannel* channel);
  // Acks that are not due go too: so that the sender hears of everything in the end. To be called
  // kAckDelay after HasPendingAcks became true.
  void AckPending();
  bool HasPendingAcks() const { return !pending_acks_.empty(); }
  // The link is down: what was to be said on it is void, and nothing is on its way any more.
  void DropControl();
  // It sends nothing any more.
  static void Forget(MuxChannel* channel);

  // The round trip is measured now and then, while there is traffic.
  void PingIfDue(absl::Time now);
  void OnPong(uint64_t nonce, absl::Time now) { flight_.OnPong(nonce, now); }
  absl::Duration round_trip() const { return flight_.round_trip(); }

  bool HasOutput() const {
    return !control_.empty() || !acks_.empty() || (!ready_.empty() && flight_.room() > 0);
  }
  // Whether there is anything at all, though it may have to wait for what is on its way.
  bool HasMoreToSay() const { return !control_.empty() || !acks_.empty() || !ready_.empty(); }
  std::size_t control_bytes() const { return control_.size(); }
  // The next message, about kBatch bytes; empty when there was nothing to send after all.
  absl::Cord NextBatch(absl::Time now);

 private:
  // One turn. True if the channel has more to send.
  static bool Turn(MuxChannel* channel, FrameWriter* writer);

  WritePing* const write_ping_;
  const uint64_t least_flight_;
  Flight flight_;
  FrameWriter control_;
  FairQueue<MuxChannel> ready_;
  FairQueue<MuxChannel::AckEntry> acks_;
  FairQueue<MuxChannel::AckEntry> pending_acks_;
};

}  // namespace sockbroker::session
