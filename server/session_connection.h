// SessionConnection: a connection of the broker's, as the frame logic of a session drives it, on
// the connection's loop. And TakeOver, which decides whose turn it is.
//
//   TakeOverResult result = co_await TakeOver(record, {.holder = holder, .steal = true});
//   session.Bound(number, std::move(result.binding));
//   result.connection->TellIfGone();
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "server/bound_connection.h"
#include "server/connection_record.h"
#include "server/errors.h"
#include "server/lease.h"
#include "session/broker_session.h"
#include "streams/stream_reader.h"
#include "streams/task.h"

namespace sockbroker::server {

class SessionConnection final : public BoundConnection,
                                public std::enable_shared_from_this<SessionConnection>,
                                private streams::PullListener {
 public:
  explicit SessionConnection(std::shared_ptr<ConnectionRecord> record)
      : record_(std::move(record)) {}
  SessionConnection(const SessionConnection&) = delete;
  SessionConnection& operator=(const SessionConnection&) = delete;

  struct Client {
    std::string holder;
    uint64_t attempt = 0;
    // What it has of the read stream; none: nothing.
    std::optional<session::Position> read;
    // It had the connection before, and knows which marks it has passed.
    bool knows_marks = false;
    // What is held for it, and for its peer, is counted here.
    MemoryBudgets::Pair budgets;
    // At most so much is retained, bytes.
    std::size_t limit = 0;
  };
  // What a client may send ahead of any answer, and at first afterwards, bytes.
  static constexpr std::size_t kInitialWindow = 64 * 1024;
  // Takes the connection over. No other session has it, and nobody waits in a read. OUT_OF_RANGE:
  // `read` is not what is held. RESOURCE_EXHAUSTED (BUDGET).
  RpcStatus Begin(const Client& client, session::BrokerSession::Binding* binding);
  // Once the client has been told of the binding: a connection that has ended before ends it,
  // behind what is left to be read.
  void TellIfGone();
  const std::shared_ptr<ConnectionRecord>& record() const { return record_; }
  // Another takes it. Ends in Unbind, at once or (RemoteConnection) later.
  void Fence();

  // --- the record's word
  void OnGone();
  void OnTlsStarted();

  // --- BoundConnection
  void Claim() override { use_.emplace(record_->BeginCall()); }
  bool unbound() const override { return record_->binding() != this; }
  void OnBinding(session::ConnectionListener* listener) override;
  absl::Cord Read(std::size_t max, std::size_t retained) override;
  void OnTaken(std::size_t retained) override;
  bool AtEof() const override { return record_->reads().reader().AtEof(); }
  bool Exhausted() const override;
  session::ReadMarkLog& read_marks() override { return record_->session_memory().read_marks; }
  absl::Status Write(absl::Cord bytes) override;
  uint64_t Flushed() const override { return record_->writes().flushed(); }
  void WriteEof() override { (void)record_->WriteEof(); }
  void StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) override;
  void Close() override { record_->Close(v1::CLOSED_BY_CLIENT); }
  void Abort() override { record_->Abort(v1::ABORTED_BY_CLIENT); }
  void Unbind(session::Position read, absl::Cord unread, session::Position write) override;

 private:
  void OnReadable() override;
  void OnFlushed() override;
  // Makes `asked_` as small as the budget demands.
  void Charge(std::size_t retained);
  void WaitForRoom();

  const std::shared_ptr<ConnectionRecord> record_;
  session::ConnectionListener* listener_ = nullptr;
  // The lease counts from the end of the binding on.
  std::optional<Lease::Use> use_;
  uint64_t flushed_ = 0;  // as the listener knows it

  // What is read is charged before it is read: what may come next beside what is retained. Who
  // waits for little is charged little.
  MemoryGrant held_;
  std::size_t appetite_ = MemoryBudget::kReserve;
  std::size_t asked_ = 0;
  std::size_t limit_ = 0;
  bool waiting_for_room_ = false;
};

struct TakeOverRequest {
  std::string holder;
  uint64_t attempt = 0;
  bool steal = false;
  // The client's last epoch; 0: it never had the connection.
  uint64_t epoch = 0;
  // A repeated Open found the connection that its first has made.
  bool reopened = false;
  std::optional<session::Position> read;
  MemoryBudgets::Pair budgets;
  std::size_t limit = 0;
};
struct TakeOverResult {
  RpcStatus status;
  // It is gone, and nothing of it is left to be read.
  std::optional<v1::Closed> closed;
  // With neither of these:
  std::shared_ptr<SessionConnection> connection;
  session::BrokerSession::Binding binding;
};
// Binds a connection that exists, on its loop; fences who has it. docs/session.md, "Whose turn".
streams::Task<TakeOverResult> TakeOver(std::shared_ptr<ConnectionRecord> record,
                                       TakeOverRequest request);

v1::Closed ClosedFrame(const ConnectionTombstone& tombstone);

}  // namespace sockbroker::server
