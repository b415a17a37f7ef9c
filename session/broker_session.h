// BrokerSession: the broker's end of one Session stream: channels, marks, fences, credits. No
// sockets and no gRPC: a host does what a frame asks for, and a connection is an interface.
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
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "session/frame_codec.h"
#include "session/mux.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {

class BrokerSession;

// The marks of a connection's read stream, by their numbers: the peer's EOF, upgrades. It lives as
// long as the connection, over all its bindings.
struct ReadMarkLog {
  struct Entry {
    uint64_t offset;
    v1::BrokerFrame frame;  // without channel and place
  };
  std::vector<Entry> entries;
  bool has_eof = false;
  // An upgrade is under way: offsets in [void_from, void_to) name bytes that belong to the
  // handshake.
  bool upgrading = false;
  uint64_t void_from = 0;
  uint64_t void_to = 0;

  // There are keys: decrypted data begins at void_to. Whoever has a binding then calls
  // BrokerChannel::OnTlsStarted.
  void EndUpgrade(v1::TlsInfo info);
};

// What happens to a connection, told to whoever drives it.
class ConnectionListener {
 public:
  // There may be something to read, or the peer's EOF.
  virtual void OnReadable() = 0;
  // BrokerConnection::Flushed has moved.
  virtual void OnFlushed() = 0;
  // The upgrade is done, and in the log; decrypted data is what Read gives from now on.
  virtual void OnTlsStarted() = 0;
  // The peer will take no more.
  virtual void OnWriteClosed(google::rpc::Status status) = 0;
  // The connection is gone; what Read still gives comes before `closed`.
  virtual void OnGone(v1::Closed closed) = 0;
  // Another binding takes the connection: gives it back (Unbind), tells the client, and ends the
  // channel.
  virtual void Fence(uint64_t new_epoch) = 0;

 protected:
  ~ConnectionListener() = default;
};

// A connection as a session drives it.
class BrokerConnection {
 public:
  virtual ~BrokerConnection() = default;

  // The first call: `listener` drives it from now on, until Unbind.
  virtual void OnBinding(ConnectionListener* /*listener*/) {}

  // What has arrived, at most `max` bytes, without waiting; empty if there is nothing now. When
  // there is something again it says OnReadable. `max` 0: the client has no room. `retained`: so
  // many bytes were read before and are kept until the client has taken them.
  virtual absl::Cord Read(std::size_t max, std::size_t retained) = 0;
  // The peer has ended its direction and everything before was read.
  virtual bool AtEof() const = 0;
  // Everything that ever will arrive was read: after EOF, or once the connection is gone.
  virtual bool Exhausted() const = 0;
  virtual ReadMarkLog& read_marks() = 0;

  // The client has taken more of what was read: only so much is retained for it now.
  virtual void OnTaken(std::size_t /*retained*/) {}

  // kFailedPrecondition behind WriteEof.
  virtual absl::Status Write(absl::Cord bytes) = 0;
  // One past the last byte that the kernel has.
  virtual uint64_t Flushed() const = 0;
  virtual void WriteEof() = 0;
  // `taken_back`: what was read from it but belongs to TLS. OnTlsStarted or OnGone answers.
  virtual void StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) = 0;
  virtual void Close() = 0;
  virtual void Abort() = 0;

  // The last call: the session has let go. `unread` was read from the connection but never taken by
  // the client: it stands at `read` and is what the next reader gets first.
  virtual void Unbind(Position read, absl::Cord unread, Position write) = 0;
};

// A channel with a connection behind it.
class BrokerChannel final : public MuxChannel, public ConnectionListener {
 public:
  void OnReadable() override;
  void OnFlushed() override;
  void OnTlsStarted() override;
  void OnWriteClosed(google::rpc::Status status) override;
  void OnGone(v1::Closed closed) override;
  void Fence(uint64_t new_epoch) override;
  // Lets the window fall to `window` and asks the client to send no further than that.
  void Revoke(uint64_t window);

 private:
  friend class BrokerSession;
  BrokerChannel(BrokerSession* session, uint32_t number, Position read, uint64_t edge,
                Position write, uint64_t window)
      : MuxChannel(number, SendHalf(read, edge), ReceiveHalf(write, window)),
        session_(session),
        applied_(write) {}

  void Refill(std::size_t max) override;
  void WriteMark(Position at, FrameWriter* writer) override;
  bool WriteEnd(FrameWriter* writer) override;
  Position Taken() const override { return applied_; }
  uint64_t Flushed() const override { return connection_ == nullptr ? 0 : connection_->Flushed(); }

  // What the client sent while its connection was not ready for it: opening, or in a TLS handshake.
  bool upgrading() const { return connection_->read_marks().upgrading; }
  bool holds() const { return connection_ == nullptr || upgrading() || upgrade_at_ > 0; }
  // False: the bytes were faulty, and the channel is no more.
  bool Apply(absl::Cord bytes);
  // False: the mark was faulty, and the channel is no more.
  bool Apply(const v1::ClientFrame& mark);
  // False: what was held ended the channel, and it is no more.
  bool ApplyHeld();
  void Connect(std::shared_ptr<BrokerConnection> connection) {
    connection_ = std::move(connection);
    connection_->OnBinding(this);
  }
  bool placeholder() const { return connection_ == nullptr && !opening_; }
  void LetGo();
  // Gives back what a revoked window does not need any more.
  void ShrinkGrant();

  BrokerSession* const session_;
  std::shared_ptr<BrokerConnection> connection_;  // null while it is being opened
  std::list<std::pair<absl::Cord, v1::ClientFrame>> held_;
  // What the connection has; what is held above it is lost with the link, and sent again.
  Position applied_;
  // An upgrade waits until everything below was read again: the client has it from an earlier
  // binding, and what lies behind belongs to TLS. 0: none does.
  uint64_t upgrade_at_ = 0;
  bool opening_ = false;    // by Open; a Bind under way is neither opening nor connected
  bool unclaimed_ = false;  // accepted, and the client has not said anything on it yet
  bool closing_ = false;    // the client closed it: nothing more is read
  bool end_sent_ = false;
  bool over_granted_ = false;  // after a Revoke: more is granted than the window needs
  std::unique_ptr<v1::Closed> end_;
};

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
