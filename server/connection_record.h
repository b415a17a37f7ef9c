// ConnectionRecord: one connection as the broker keeps it: its two halves, lease, time-outs, how it
// ends and what is then remembered. Lives on the connection's loop; everything but the constants
// belongs to that loop's thread.
//
//   std::shared_ptr<ConnectionRecord> record = ConnectionRecord::Create(core, std::move(birth));
//   Lease::Use use = record->BeginCall();
//   co_await record->reads().Read(...);
//   record->EndCall();
//
// open -> closing (Close was called) -> gone. A connection that an error ended, with bytes nobody
// has read yet, stays a record until they are read or its lease ends; everything else becomes a
// tombstone at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/broker_core.h"
#include "server/descriptor_budget.h"
#include "server/errors.h"
#include "server/handle.h"
#include "server/lease.h"
#include "server/options_codec.h"
#include "server/principal.h"
#include "server/proxy_protocol.h"
#include "server/read_side.h"
#include "server/write_side.h"
#include "session/broker_session.h"
#include "streams/connection.h"
#include "streams/wait_queue.h"

namespace sockbroker::server {

class ServerRecord;
class SessionConnection;

// What outlives a binding to a session.
struct SessionMemory {
  // Who bound it last, and the number of that stream.
  std::string holder;
  uint64_t attempt = 0;
  // What that binding's client had taken of the read stream, and the marks it had passed in the
  // write stream.
  session::Position read;
  uint32_t write_marks = 0;
  session::ReadMarkLog read_marks;
};

// An accepted connection that is nobody's yet.
struct AcceptedSocket {
  streams::Connection connection;
  DescriptorBudget::Hold descriptor;
  std::optional<ProxyHeader> proxy_header;
  // So many bytes of the stream were that header.
  uint64_t skip = 0;
  // It speaks TLS from its first byte on.
  bool tls = false;
};

class ConnectionRecord : public std::enable_shared_from_this<ConnectionRecord> {
 public:
  struct Birth {
    AcceptedSocket socket;
    uint64_t written_before = 0;  // bytes of a PROXY header that was sent
    ConnectionSettings settings;
    std::shared_ptr<const Principal> principal;
    std::string request_key;
    std::string requested_host;
    std::string rpc;
    // Of an accepted one. It waits for its first call; without one in time it goes back.
    std::shared_ptr<ServerRecord> server;
  };

  // On the loop that it will live on. Gives it a handle and puts it into the table.
  static std::shared_ptr<ConnectionRecord> Create(BrokerCore* core, Birth birth);
  ~ConnectionRecord();
  ConnectionRecord(const ConnectionRecord&) = delete;
  ConnectionRecord& operator=(const ConnectionRecord&) = delete;

  // --- any thread
  const Handle& handle() const { return handle_; }
  streams::EventLoop* loop() const { return loop_; }

  // --- the loop's thread
  // Around every call that names the connection. The first one claims an accepted connection.
  Lease::Use BeginCall();
  void EndCall();

  enum class State {
    kOpen,
    kClosing,   // Close was called; what is buffered is being flushed
    kLost,      // ended by an error; what was received can still be read
    kGone,      // see tombstone()
    kReleased,  // given back to its server: this handle names nothing any more
  };
  State state() const { return state_; }
  const std::shared_ptr<const ConnectionTombstone>& tombstone() const { return tombstone_; }
  bool unclaimed() const { return unclaimed_; }
  // Counts the bindings to sessions.
  uint64_t epoch() const { return epoch_; }
  // The session that has it, if one has: unary reads and writes are refused meanwhile.
  SessionConnection* binding() const { return binding_; }
  SessionMemory& session_memory();
  // A new binding; the one before has ended. Returns its epoch.
  uint64_t BeginBinding(SessionConnection* binding);
  void EndBinding();
  // Until no session has it: OK, or why the wait ended.
  streams::Task<absl::Status> WaitUnbound();
  // StartTls of a session, at an exact byte: decrypted data begins at `begin`. Whatever fails
  // closes the connection, for what was written behind it was meant for TLS. The result is told to
  // the session that has the connection by then.
  void StartTlsFromSession(const v1::SessionStartTls& request, uint64_t begin,
                           absl::Cord taken_back);
  bool upgrading() const { return upgrading_; }
  uint64_t opened_sequence() const { return opened_sequence_; }

  ReadSide& reads() { return reads_; }
  WriteSide& writes() { return writes_; }
  streams::StreamWriter& writer() { return writer_; }
  // Shuts our direction down, and minds the half-close time-out.
  RpcStatus WriteEof();
  void OnWrote();

  v1::Connection Snapshot() const;
  v1::Offsets offsets() const;
  // FAILED_PRECONDITION (CLOSED) with the offsets and why.
  RpcStatus ClosedError() const;
  // The error that ended it, with the offsets; OK when none did (yet).
  RpcStatus LossError() const;
  // What a session is told of the end.
  v1::Closed ClosedFrame() const;

  // Flush, then close; `discard`: without flushing. Idempotent.
  void Close(v1::Reason reason, bool discard = false, v1::Phase phase = v1::PHASE_UNSPECIFIED);
  // Reset.
  void Abort(v1::Reason reason);
  // Until it is gone (or lost): OK, or why the wait ended.
  streams::Task<absl::Status> WaitGone();
  RpcStatus SetOptions(const v1::SetOptionsRequest& request);
  // Upgrades it in place. Cancelled in the handshake, or failed there, it is closed.
  streams::Task<RpcStatus> StartTls(const v1::StartTlsRequest& request);
  // What TLS agreed on, and where it began; nothing on a plain connection.
  std::optional<v1::TlsInfo> tls() const;

  // An unclaimed one goes back to its server's queue, and its handle is forgotten.
  void GiveBack();
  // The reply is on its way once more.
  void RestartClaimTimer();

 private:
  ConnectionRecord(BrokerCore* core, Birth birth);

  static streams::Task<void> Upgrade(std::shared_ptr<ConnectionRecord> self,
                                     streams::TlsOptions tls);
  // What StartTls must know of the options; `side` the client's wish.
  RpcStatus MakeTls(const v1::TlsOptions& options, v1::StartTlsRequest::Side side,
                    streams::TlsOptions* tls, bool* server) const;
  void OnGone(const absl::Status& status);
  void OnPeerEof();
  AcceptedSocket Release();
  void OnLeaseExpired();
  void OnIdleTimer();
  void OnHalfCloseTimer();
  void ArmTimeouts();
  void ArmHalfClose();
  void Bury();
  uint64_t Publish(v1::ConnectionEvent::Kind kind);
  void Audit(bool open) const;

  BrokerCore* const core_;
  streams::EventLoop* const loop_;
  const Handle handle_;
  const std::shared_ptr<const Principal> principal_;
  const std::string requested_host_;
  const std::string rpc_;
  const std::unique_ptr<const ProxyHeader> proxy_header_;  // few have one
  const absl::Time opened_at_wall_;
  const absl::Time opened_at_;
  const std::shared_ptr<ServerRecord> server_;

  std::shared_ptr<const ConnectionSettings> settings_;
  DescriptorBudget::Hold descriptor_;
  streams::StreamWriter writer_;
  ReadSide reads_;
  WriteSide writes_;

  State state_ = State::kOpen;
  bool unclaimed_ = false;
  // A timer that most connections never set: it takes its memory when it is set first.
  template <auto kMethod>
  class RareTimer {
   public:
    explicit RareTimer(ConnectionRecord* record) : record_(record) {}
    void Set(absl::Time deadline) { Get()->Set(deadline); }
    void SetAfter(absl::Duration delay) { Get()->SetAfter(delay); }
    void Cancel() {
      if (timer_ != nullptr) timer_->Cancel();
    }

   private:
    streams::Timer* Get() {
      if (timer_ == nullptr) {
        timer_ = std::make_unique<streams::Timer>(record_->loop_,
                                                  [record = record_] { (record->*kMethod)(); });
      }
      return timer_.get();
    }
    ConnectionRecord* const record_;
    std::unique_ptr<streams::Timer> timer_;
  };

  // Which side of TLS the broker plays, and where TLS began.
  struct TlsBegin {
    bool server_side;
    uint64_t read_offset;
    uint64_t write_offset;
  };
  std::optional<TlsBegin> tls_;
  bool upgrading_ = false;
  uint64_t epoch_ = 0;
  SessionConnection* binding_ = nullptr;
  streams::WaitQueue unbound_;
  std::unique_ptr<SessionMemory> session_memory_;
  // What a failed upgrade of a session's has to say about the end.
  RpcStatus upgrade_failure_;
  // It ended by itself, so what was received before is still to be read.
  bool readable_after_end_ = false;
  uint64_t opened_sequence_ = 0;
  streams::WaitQueue gone_;
  std::shared_ptr<const ConnectionTombstone> tombstone_;

  // Why it ends, as far as the broker or a client decided it.
  v1::Reason intent_ = v1::REASON_UNSPECIFIED;
  v1::Phase intent_phase_ = v1::PHASE_UNSPECIFIED;
  // Why it ended.
  v1::Reason close_reason_ = v1::REASON_UNSPECIFIED;
  v1::Phase close_phase_ = v1::PHASE_UNSPECIFIED;
  bool ended_by_peer_ = false;
  RpcStatus loss_;
  absl::Time closed_at_wall_;

  Lease lease_;
  RareTimer<&ConnectionRecord::GiveBack> claim_timer_;
  RareTimer<&ConnectionRecord::OnHalfCloseTimer> half_close_timer_;
  bool half_closed_ = false;  // the timer runs, or ran, for the first direction's end
  // Idle time is found by looking now and then whether bytes have moved.
  RareTimer<&ConnectionRecord::OnIdleTimer> idle_timer_;
  uint64_t idle_bytes_ = 0;
  absl::Time idle_since_;
};

}  // namespace sockbroker::server
