// SessionConnection: a connection of the broker's, as the frame logic of a session drives it.
//
//   auto connection = std::make_shared<SessionConnection>(record);
//   session::BrokerSession::Binding binding;
//   RpcStatus status = connection->Begin({.holder = holder}, &binding);
//   session.Bound(number, std::move(binding));
//   connection->TellIfGone();
//
// On the connection's loop, which is the session's. It lives until Unbind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "server/connection_record.h"
#include "server/errors.h"
#include "server/lease.h"
#include "session/broker_session.h"
#include "streams/stream_reader.h"

namespace sockbroker::server {

class SessionConnection final : public session::BrokerConnection,
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
  };
  // Takes the connection over. No other session has it, and nobody waits in a read. OUT_OF_RANGE:
  // `read` is not what is held.
  RpcStatus Begin(const Client& client, uint64_t window, session::BrokerSession::Binding* binding);
  // Once the client has been told of the binding: a connection that has ended before ends it,
  // behind what is left to be read.
  void TellIfGone();
  // The session had no channel for it after all.
  void Cancel();
  // Another takes it; ends in Unbind.
  void Fence();
  // The client has taken what it was offered.
  void Claim();

  const std::shared_ptr<ConnectionRecord>& record() const { return record_; }
  session::BrokerChannel* channel() const { return channel_; }

  // --- the record's word
  void OnGone();
  void OnTlsStarted();

  // --- session::BrokerConnection
  void OnBinding(session::BrokerChannel* channel) override;
  absl::Cord Read(std::size_t max) override;
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

  const std::shared_ptr<ConnectionRecord> record_;
  session::BrokerChannel* channel_ = nullptr;
  // The lease counts from the end of the binding on.
  std::optional<Lease::Use> use_;
  uint64_t flushed_ = 0;  // as the channel knows it
};

}  // namespace sockbroker::server
