// RemoteConnection: a connection that lives on another loop than the session which drives it. The
// two ends talk by posts, in order, and neither waits for the other:
//
//   session's loop: RemoteConnection            connection's loop: Agent, SessionConnection
//     Read(max)              -> allow `max` bytes ->    Read
//     OnReadable             <- bytes, eof        <-    OnReadable
//     Write, StartTls, ...   ->                         the same
//     Unbind                 -> what was not taken ->   Unbind
//
// What is under way to a session that lets go goes back to the connection: the agent keeps it until
// the session has said that it arrived. Most sessions need none of this: see SessionCall on how a
// session's loop is chosen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/cord.h"
#include "server/bound_connection.h"
#include "server/session_connection.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

class RemoteConnection final : public BoundConnection,
                               public std::enable_shared_from_this<RemoteConnection> {
 public:
  // On the connection's loop; for a session on `home`. Replaces `binding`'s connection.
  static void Wrap(std::shared_ptr<SessionConnection> connection, streams::EventLoop* home,
                   session::BrokerSession::Binding* binding);
  RemoteConnection(const RemoteConnection&) = delete;
  RemoteConnection& operator=(const RemoteConnection&) = delete;

  // --- BoundConnection, on the session's loop
  void Claim() override;
  bool unbound() const override { return unbound_; }
  void OnBinding(session::ConnectionListener* listener) override { listener_ = listener; }
  absl::Cord Read(std::size_t max, std::size_t retained) override;
  void OnTaken(std::size_t retained) override;
  bool AtEof() const override { return eof_ && received_.empty(); }
  bool Exhausted() const override { return exhausted_ && received_.empty(); }
  session::ReadMarkLog& read_marks() override { return marks_; }
  absl::Status Write(absl::Cord bytes) override;
  uint64_t Flushed() const override { return flushed_; }
  void WriteEof() override;
  void StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) override;
  void Close() override;
  void Abort() override;
  void Unbind(session::Position read, absl::Cord unread, session::Position write) override;

 private:
  class Agent;
  RemoteConnection() = default;

  // Posts to the agent: `function(agent)`.
  template <typename Function>
  void Tell(Function function);
  void OnBytes(absl::Cord bytes, uint64_t upgrades, bool eof, bool exhausted);

  std::shared_ptr<Agent> agent_;
  session::ConnectionListener* listener_ = nullptr;
  session::ReadMarkLog marks_;  // the agent's record gets it back
  absl::Cord received_;
  uint64_t arrived_ = 0;     // bytes, since the last upgrade
  std::size_t allowed_ = 0;  // of those that were asked for, still to come
  std::size_t told_retained_ = 0;
  uint64_t upgrades_ = 0;  // what was under way before one is void
  uint64_t flushed_ = 0;
  bool eof_ = false;
  bool exhausted_ = false;
  bool write_ended_ = false;
  bool unbound_ = false;
};

}  // namespace sockbroker::server
