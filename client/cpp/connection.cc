#include "client/cpp/connection.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/internal/channel.h"
#include "client/cpp/internal/make_connection.h"

namespace sockbroker::client {

using internal::Channel;
using streams::Task;

absl::StatusOr<Connection> ConnectionMaker::Make(const std::shared_ptr<Channel>& channel) {
  absl::StatusOr<streams::Connection> streams = Channel::MakeStreams(channel);
  if (!streams.ok()) return streams.status();
  StreamReader reader = std::move(streams->reader);
  return Connection{reader, StreamWriter(std::move(streams->writer), reader, channel)};
}

StreamWriter::StreamWriter(streams::StreamWriter writer, StreamReader reader,
                           std::shared_ptr<Channel> channel)
    : streams::StreamWriter(std::move(writer)),
      reader_(std::move(reader)),
      channel_(std::move(channel)) {}

namespace {

Task<absl::Status> DrainOrFail(streams::StreamWriter writer, std::shared_ptr<Channel> channel) {
  if (!channel->write_status().ok()) co_return channel->write_status();
  absl::Status status = co_await writer.Drain();
  co_return status.ok() ? channel->write_status() : status;
}

Task<absl::Status> Upgrade(StreamReader reader, std::shared_ptr<Channel> channel,
                           v1::TlsOptions options, StartTlsOptions how) {
  if (channel->upgrading()) {
    co_return absl::FailedPreconditionError("another start_tls() is under way");
  }
  if (channel->write_eof())
    co_return absl::FailedPreconditionError("start_tls() after write_eof()");
  if (reader.eof_received()) {
    co_return absl::FailedPreconditionError("start_tls() after the peer has ended its direction");
  }
  const std::size_t unread = reader.buffered() + channel->pending_bytes();
  if (unread > 0 && how.unread == streams::StartTlsOptions::Unread::kRefuse) {
    co_return absl::FailedPreconditionError(
        absl::StrCat(unread, " unread bytes of plaintext stand before start_tls()"));
  }
  (void)reader.TakeBack();
  co_return co_await Channel::StartTls(std::move(channel), std::move(options), how.side);
}

Task<absl::StatusOr<Detached>> Leave(streams::StreamWriter writer, StreamReader reader,
                                     std::shared_ptr<Channel> channel) {
  (void)reader.TakeBack();
  const auto offsets = co_await Channel::Detach(channel);
  if (!offsets.ok()) co_return offsets.status();
  // What was given and not acknowledged is there to be read again.
  co_return Detached{channel->connection().handle(), offsets->acknowledged, offsets->written};
}

}  // namespace

Task<absl::Status> StreamWriter::Drain() { return DrainOrFail(*this, channel_); }
Task<absl::Status> StreamWriter::Flush() { return Channel::Flush(channel_); }
Task<absl::Status> StreamWriter::WaitTaken() { return Channel::WaitTaken(channel_); }
Task<absl::Status> StreamWriter::WaitProgress() { return Channel::WaitProgress(channel_); }
Task<absl::Status> StreamWriter::StartTls(v1::TlsOptions options, StartTlsOptions how) {
  return Upgrade(reader_, channel_, std::move(options), how);
}
Task<absl::StatusOr<Detached>> StreamWriter::Detach() { return Leave(*this, reader_, channel_); }
void StreamWriter::Acknowledge(uint64_t offset) { channel_->Acknowledge(offset); }

const std::string& StreamWriter::handle() const { return channel_->connection().handle(); }
uint64_t StreamWriter::epoch() const { return channel_->epoch(); }
const v1::Connection& StreamWriter::info() const { return channel_->connection(); }
uint64_t StreamWriter::read_offset() const { return channel_->offsets().read; }
uint64_t StreamWriter::write_offset() const { return channel_->offsets().written; }
uint64_t StreamWriter::taken_offset() const { return channel_->offsets().taken; }
uint64_t StreamWriter::flushed_offset() const { return channel_->offsets().flushed; }
v1::Reason StreamWriter::close_reason() const { return channel_->close_reason(); }
bool StreamWriter::bound() const { return channel_->bound(); }

}  // namespace sockbroker::client
