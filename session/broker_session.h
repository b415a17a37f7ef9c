// BrokerSession: the broker's end of one Session stream: its channels, fences, credits. No sockets
// and no gRPC: a host does what a frame asks for, and a connection is an interface.
//
//   BrokerSession session(options, &host);
//   absl::Status status = session.OnMessage(message, now);  // a fault: end the stream with it
//   while (link_free && session.HasOutput()) link.Write(session.NextBatch(now));
//   session.OnLinkDown();                                   // connections go back to their leases
//
// One loop's thread. docs/session.md is the specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "session/broker_channel.h"
#include "session/frame_codec.h"
#include "session/mux.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {

class BrokerSession {
 public:
  struct Options {
    std::string broker_id;
    uint64_t incarnation = 0;
    uint64_t initial_window = 64 * 1024;
    uint32_t max_channels = 100'000;
    // How much data may be on its way at least, see Flight.
    uint64_t flight = Flight::kLeast;
  };

  // Does what frames ask for. Answers come by Opened, Bound, Accepted and Failed, at once or later,
  // unless the channel has ended meanwhile (Find gives null).
  class Host {
   public:
    virtual ~Host() = default;
    virtual void Open(v1::Open request) = 0;
    virtual void Bind(v1::Bind request, const std::string& holder) = 0;
    virtual void Listen(v1::Listen request) = 0;
    virtual void StopListening(uint32_t channel) = 0;
    // The client spoke on an accepted channel for the first time.
    virtual void Claimed(BrokerConnection* connection) = 0;
    // The window of `connection` holds its sender back: how large it may be from now on (budgets).
    virtual uint64_t GrowWindow(BrokerConnection* connection, uint64_t window) = 0;
    // Revoked: its client will send no more than so much beyond what was consumed.
    virtual void ShrinkWindow(BrokerConnection* connection, uint64_t window) = 0;
    // A session that was full has room() again: what waits for Accepted may come.
    virtual void OnRoom() = 0;
  };

  BrokerSession(Options options, Host* host);
  // OnLinkDown must have been called.
  ~BrokerSession() = default;

  // An error ends the whole session: the message can't be read, or breaks a rule that no channel
  // stands for.
  absl::Status OnMessage(absl::Cord message, absl::Time now);
  bool HasOutput() const { return mux_.HasOutput(); }
  bool HasMoreToSay() const { return mux_.HasMoreToSay(); }
  // Of what there is to say: answers and the like, which no window bounds.
  std::size_t control_bytes() const { return mux_.control_bytes(); }
  absl::Cord NextBatch(absl::Time now);
  // Small acks wait a little for more to come: whoever has the stream calls AckPending kAckDelay
  // after this became true.
  bool HasPendingAcks() const { return mux_.HasPendingAcks(); }
  void AckPending() {
    mux_.AckPending();
    Notify();
  }
  // Memory is short: asks for the room back that windows larger than `window` have and their
  // senders have not needed for a while. Host::ShrinkWindow follows as the client answers.
  void RevokeUnused(uint64_t window, absl::Time now);
  void OnLinkDown();
  void GoAway(absl::Duration deadline);

  const std::string& holder() const { return holder_; }
  std::size_t channels() const { return channels_.size(); }
  // So many channels more there may be.
  std::size_t room() const {
    const std::size_t taken = channels_.size() + listening_.size();
    return taken < options_.max_channels ? options_.max_channels - taken : 0;
  }
  // Calls `notify` when there may be output, or acks that wait.
  void set_on_output(std::function<void()> notify) { on_output_ = std::move(notify); }

  // --- the host's answers
  struct Binding {
    std::shared_ptr<BrokerConnection> connection;
    v1::Connection info;
    uint64_t epoch = 0;
    Position read;   // where the broker goes on sending
    Position write;  // where the client goes on
    uint64_t window = 64 * 1024;
  };
  // To Open, for a connection that is new.
  BrokerChannel* Opened(uint32_t channel, Binding binding);
  // To Bind; and to Open, if its request_id stood for a connection that exists.
  BrokerChannel* Bound(uint32_t channel, Binding binding);
  // To Listen: one connection, on a new channel of the broker's. Null if there is no room(), too:
  // the connection stays where it was, and the client keeps its credit.
  BrokerChannel* Accepted(uint32_t listen_channel, Binding binding);
  void Failed(uint32_t channel, google::rpc::Status status);
  // To Bind: the connection is gone, and nothing of it is left to be read.
  void Closed(uint32_t channel, v1::Closed closed);

 private:
  friend class BrokerChannel;

  absl::Status OnFrame(v1::ClientFrame* frame);
  absl::Status CheckNewNumber(uint32_t number);
  // False: one channel more would be too many, and it was told Failed.
  bool Admit(uint32_t number);
  void OnData(DataFrame* data);
  void OnAck(const v1::Ack& ack);
  void OnMark(uint32_t channel, const v1::Position& at, v1::ClientFrame* frame);
  void OnClose(v1::ClientFrame* frame);
  void OnDetach(uint32_t channel);
  // The channel, claimed; null if it is unknown or has ended (frames that crossed its end mean
  // nothing).
  BrokerChannel* Find(uint32_t channel);
  BrokerChannel* Add(uint32_t number, Position read, uint64_t edge, Position write,
                     uint64_t window);
  // A frame broke a rule: the channel ends, and the connection goes back to its lease.
  void Fault(BrokerChannel* channel, const absl::Status& status);
  // Whatever the number stands for has ended.
  void Erase(uint32_t number);
  void Notify();

  const Options options_;
  Host* const host_;
  std::function<void()> on_output_;
  Mux mux_;
  std::string holder_;
  bool greeted_ = false;
  uint32_t highest_client_number_ = 0;
  uint32_t next_own_number_ = 2;
  absl::flat_hash_map<uint32_t, std::unique_ptr<BrokerChannel>> channels_;
  absl::flat_hash_set<uint32_t> listening_;
  std::vector<uint32_t> resume_;  // channels whose upgrade need not wait any more
  absl::Time now_ = absl::InfinitePast();
};

}  // namespace sockbroker::session
