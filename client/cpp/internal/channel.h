// Channel: one connection of the broker's, as a stream of this process: a session's channel below,
// a ByteStream for the engine's reader and writer above. It outlives broken links; the session does
// that.
//
//   auto channel = std::make_shared<Channel>(link, options);
//   channel->Open(request);
//   co_await Channel::WaitBound(channel);
//   absl::StatusOr<streams::Connection> pair = Channel::MakeStreams(channel);
//
// The loop's thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "client/cpp/internal/link.h"
#include "client/cpp/options.h"
#include "client/cpp/status.h"
#include "session/client_session.h"
#include "streams/byte_stream.h"
#include "streams/connection.h"
#include "streams/task.h"
#include "streams/tls_info.h"
#include "streams/wait_queue.h"

namespace sockbroker::client::internal {

// Where a channel stands, in bytes of the connection's streams.
struct ChannelOffsets {
  uint64_t read = 0;          // given to the application
  uint64_t acknowledged = 0;  // of that, what the broker may forget
  uint64_t written = 0;
  uint64_t taken = 0;
  uint64_t flushed = 0;
};

class Channel final : public session::ClientListener,
                      public LinkDependent,
                      public std::enable_shared_from_this<Channel> {
 public:
  Channel(std::shared_ptr<Link> link, ConnectionOptions options);
  ~Channel() override;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // --- one of these, once
  void Open(v1::OpenConnectionRequest request);
  void Open(v1::OpenUnixConnectionRequest request);
  void Bind(const std::string& handle, bool steal, std::optional<uint64_t> read_offset);
  // A connection that a server accepted: bound from the beginning.
  void Accepted(session::ClientChannel* channel, const v1::Connection& connection,
                bool allow_half_close);

  // Until the broker has answered, or said no. Cancelled, or failed, the channel is of no use.
  static streams::Task<absl::Status> WaitBound(std::shared_ptr<Channel> channel);
  // Once, when bound.
  static absl::StatusOr<streams::Connection> MakeStreams(const std::shared_ptr<Channel>& channel);

  // --- what the engine's stream does not know
  // Until everything written so far is in the broker's kernel.
  static streams::Task<absl::Status> Flush(std::shared_ptr<Channel> channel);
  // Until the broker has all of it, marks included.
  static streams::Task<absl::Status> WaitTaken(std::shared_ptr<Channel> channel);
  // Until it, or its kernel, has more.
  static streams::Task<absl::Status> WaitProgress(std::shared_ptr<Channel> channel);
  // The upgrade by the broker; `received` was read by nobody and belongs to TLS.
  static streams::Task<absl::Status> StartTls(std::shared_ptr<Channel> channel,
                                              v1::TlsOptions options,
                                              v1::StartTlsRequest::Side side);
  // Leaves the connection at the broker. What was read stays read; what waits unread is another's.
  static streams::Task<absl::StatusOr<ChannelOffsets>> Detach(std::shared_ptr<Channel> channel);
  void Acknowledge(uint64_t offset);

  ChannelOffsets offsets() const;
  const v1::Connection& connection() const { return connection_; }
  uint64_t epoch() const { return epoch_; }
  bool bound() const { return channel_ != nullptr && channel_->bound(); }
  const absl::Status& write_status() const { return write_status_; }
  bool write_eof() const { return write_eof_; }
  bool upgrading() const { return upgrading_; }
  bool ended() const { return ending_; }
  v1::Reason close_reason() const { return close_reason_; }
  // Received, and kept back from the reader.
  std::size_t pending_bytes() const { return pending_.size(); }

  // LinkDependent: nobody will call again.
  bool IsEnding() const override { return closing_; }
  void OnLinkClosed(const absl::Status& reason) override;

  // ClientListener.
  void OnBound(const v1::Connection& connection, uint64_t epoch) override;
  void OnData(absl::Cord bytes) override;
  void OnEof() override;
  void OnTlsStarted(const v1::TlsInfo& info) override;
  void OnProgress() override;
  void OnSent() override;
  void OnWriteClosed(const google::rpc::Status& status) override;
  void OnEnding(const v1::Closed& closed) override;
  void OnClosed(const v1::Closed& closed) override;
  void OnFailed(const google::rpc::Status& status) override;
  void OnDetached() override;
  void OnFenced(uint64_t epoch) override;
  void OnLost(const v1::Offsets& last_known) override;

 private:
  class Stream;

  // Lives on until the session's last call.
  void Enter(session::ClientChannel* channel);
  // The session's last call came: remembers the offsets, and ends the stream with `status`.
  void Leave(absl::Status status);
  // What is known once the broker has closed it.
  void NoteClosed(const v1::Closed& closed);
  // The error of what can't come any more.
  absl::Status Gone() const;
  // Ends the stream: what was received is given first.
  void End(absl::Status status);
  // Gives the protocol what it may have.
  void Deliver();
  void DeliverLater();
  void ConsumeAll();
  void OnConsumed(std::size_t bytes);
  void OnReadBlocked(std::size_t buffered);
  v1::Offsets OffsetsProto() const;
  void MaybePauseWriting();
  bool MayRead() const { return !reading_paused_ && !closing_; }

  const std::shared_ptr<Link> link_;
  ConnectionOptions options_;
  session::ClientChannel* channel_ = nullptr;  // null before and after
  std::shared_ptr<Channel> self_;              // while there is one
  v1::Connection connection_;
  streams::SocketAddress peername_;
  streams::SocketAddress sockname_;
  uint64_t epoch_ = 0;
  bool accepted_ = false;
  bool binding_ = false;
  std::optional<streams::TlsInfo> tls_info_;
  ChannelOffsets last_;         // once channel_ is gone
  v1::Offsets closed_offsets_;  // the broker's last word
  absl::Status end_;            // why, if not well
  v1::Reason close_reason_ = v1::REASON_UNSPECIFIED;
  streams::WaitQueue bound_;    // opened, bound, or never
  streams::WaitQueue changed_;  // flushed, upgraded, detached, ended

  // Upwards.
  std::shared_ptr<streams::StreamProtocol> protocol_;
  bool reading_paused_ = false;
  bool deliver_scheduled_ = false;
  absl::Cord pending_;  // received, and not given to the protocol yet
  bool eof_pending_ = false;
  bool ending_ = false;  // end_ is to be told when all the rest was
  // Given to the application and not acknowledged (acknowledge_explicitly).
  uint64_t unacknowledged_ = 0;

  // Downwards.
  std::size_t high_ = streams::kDefaultHighWater;
  std::size_t low_ = streams::kDefaultHighWater / 4;
  bool writing_paused_ = false;
  bool write_eof_ = false;
  bool can_write_eof_ = true;
  bool closing_ = false;  // Close, Abort or Detach: nothing is read or written any more
  bool detaching_ = false;
  bool detached_ = false;
  bool upgrading_ = false;
  bool half_close_after_tls_ = false;
  absl::Status write_status_;  // the peer takes no more
};

}  // namespace sockbroker::client::internal
