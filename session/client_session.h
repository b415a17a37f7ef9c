// ClientSession: the client's end: channels that outlive the stream they run on. No sockets and no
// gRPC: whoever has the stream says when it is up and down, and moves the messages.
//
//   ClientSession session(holder);
//   ClientChannel* channel = session.Open(request, &listener);
//   channel->Write(absl::Cord("hello"));
//   session.OnLinkUp();    // Hello, then every channel: opened, or bound again
//   while (link_free && session.HasOutput()) link.Write(session.NextBatch(now));
//   absl::Status status = session.OnMessage(message, now);
//   session.OnLinkDown();  // nothing is lost: what was not acked is kept
//
// One loop's thread. docs/session.md is the specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "session/client_channel.h"
#include "session/frame_codec.h"
#include "session/mux.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {

// What a listening channel gets.
class AcceptListener {
 public:
  virtual ~AcceptListener() = default;
  // A connection, on `channel`, which is claimed (the session keeps it). Gives its listener.
  virtual ClientListener* OnAccepted(ClientChannel* channel, const v1::Connection& connection) = 0;
  virtual void OnFailed(const google::rpc::Status& status) = 0;
};

class ClientSession {
 public:
  // `holder`: 16 random bytes, drawn once per process (or whatever else must not be two).
  // `flight`: how much data may be on its way at least, see Flight.
  explicit ClientSession(std::string holder, uint64_t window = 64 * 1024,
                         uint64_t flight = Flight::kLeast);

  // The listener must outlive the channel, which lives until the listener's last call. `request_id`
  // of the request should be set: without one, an Open whose answer is lost can't be asked for
  // again, and fails.
  ClientChannel* Open(v1::OpenConnectionRequest request, ClientListener* listener);
  ClientChannel* Open(v1::OpenUnixConnectionRequest request, ClientListener* listener);
  // An existing connection. `read`: what the caller has of it already; none: from the lowest byte
  // held. Its writes go on where the broker stands.
  ClientChannel* Bind(std::string handle, bool steal, std::optional<Position> read,
                      ClientListener* listener);
  // Accepts `credits` connections. More by AddCredits.
  uint32_t Listen(std::string server, uint32_t credits, AcceptListener* listener);
  void AddCredits(uint32_t id, uint32_t credits);
  void StopListening(uint32_t id);

  void OnLinkUp();
  void OnLinkDown();
  // An error: the stream is of no use any more; end it, and make another.
  absl::Status OnMessage(absl::Cord message, absl::Time now);
  bool HasOutput() const { return mux_.HasOutput(); }
  absl::Cord NextBatch(absl::Time now) { return mux_.NextBatch(now); }
  // Small acks wait a little for more to come: whoever has the stream calls AckPending kAckDelay
  // after this became true.
  bool HasPendingAcks() const { return mux_.HasPendingAcks(); }
  void AckPending() {
    mux_.AckPending();
    Notify();
  }
  // Calls `notify` when there may be output, or acks that wait.
  void set_on_output(std::function<void()> notify) { on_output_ = std::move(notify); }
  // The broker has answered this stream's Hello.
  bool welcome() const { return welcome_; }
  uint64_t incarnation() const { return incarnation_; }
  // The broker asked for no more new connections, on this stream.
  bool going_away() const { return going_away_; }
  std::size_t channels() const { return channels_.size(); }

 private:
  friend class ClientChannel;
  struct Listening {
    uint32_t number = 0;
    std::string server;
    uint32_t credits = 0;
    AcceptListener* listener = nullptr;
  };

  ClientChannel* Add(ClientListener* listener);
  void Ask(ClientChannel* channel);
  void Ask(Listening* listening);
  void OnWelcome(const v1::Welcome& welcome);
  void OnData(DataFrame* data);
  void OnBound(const v1::Bound& bound);
  void OnAccepted(const v1::Accepted& accepted);
  absl::Status OnFrame(v1::BrokerFrame* frame);
  void OnMark(uint32_t number, const v1::Position& at, const v1::BrokerFrame& frame);
  ClientChannel* Find(uint32_t number);
  // Takes the channel out of the session and hands it over for its last call.
  std::unique_ptr<ClientChannel> Remove(ClientChannel* channel);
  void Lose(ClientChannel* channel);
  // The broker broke a rule on this channel.
  void Fault(ClientChannel* channel, const absl::Status& status);
  void Notify();

  const std::string holder_;
  const uint64_t window_;
  std::function<void()> on_output_;
  Mux mux_;
  bool up_ = false;
  bool welcome_ = false;
  bool going_away_ = false;
  uint64_t attempt_ = 0;  // counts the streams
  uint64_t incarnation_ = 0;
  uint64_t initial_window_ = 0;
  uint32_t next_number_ = 1;
  uint64_t next_sequence_ = 0;
  absl::flat_hash_map<ClientChannel*, std::unique_ptr<ClientChannel>> channels_;
  absl::flat_hash_map<uint32_t, ClientChannel*> by_number_;
  std::map<uint32_t, std::unique_ptr<Listening>> listening_;  // by id
  absl::flat_hash_map<uint32_t, Listening*> listening_by_number_;
  uint32_t next_listening_id_ = 1;
  absl::Time now_ = absl::InfinitePast();
};

}  // namespace sockbroker::session
