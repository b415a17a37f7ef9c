// BrokerChannel: a channel at the broker's end, and what it asks of the connection behind it.
//
//   class Record : public BrokerConnection { ... };       // whoever drives a socket
//   BrokerChannel* channel = session.Bound(number, ...);  // a BrokerSession makes them
//   channel->OnReadable();                                // the connection tells what happens
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
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

}  // namespace sockbroker::session
