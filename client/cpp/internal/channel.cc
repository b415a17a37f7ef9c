#include "client/cpp/internal/channel.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/internal/endpoints.h"
#include "client/cpp/internal/link.h"
#include "streams/error.h"

namespace sockbroker::client::internal {
namespace {

// What is smaller is copied out of its message, of which it would keep all in memory.
constexpr std::size_t kCopyBelow = 2048;

}  // namespace

// The side that the engine's reader and writer hold. When they are gone, nobody will read the rest.
class Channel::Stream final : public streams::ByteStream {
 public:
  explicit Stream(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  ~Stream() override {
    Close();
    channel_->ConsumeAll();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void Start(std::shared_ptr<streams::StreamProtocol> protocol) override {
    channel_->protocol_ = std::move(protocol);
    channel_->DeliverLater();
  }
  void SetProtocol(std::shared_ptr<streams::StreamProtocol> protocol) override {
    channel_->protocol_ = std::move(protocol);
  }
  void PauseReading() override { channel_->reading_paused_ = true; }
  void ResumeReading() override {
    channel_->reading_paused_ = false;
    channel_->DeliverLater();
  }
  void OnConsumed(std::size_t bytes) override { channel_->OnConsumed(bytes); }
  void OnReadBlocked(std::size_t buffered) override { channel_->OnReadBlocked(buffered); }

  void Write(absl::Cord data) override {
    Channel& self = *channel_;
    if (self.channel_ == nullptr || self.closing_ || self.write_eof_ || data.empty() ||
        !self.write_status_.ok()) {
      return;
    }
    self.channel_->Write(std::move(data));
    self.MaybePauseWriting();
  }
  std::size_t write_buffer_size() const override {
    return channel_->channel_ == nullptr ? 0 : channel_->channel_->unsent();
  }
  uint64_t bytes_flushed() const override { return channel_->offsets().flushed; }
  void SetWriteBufferLimits(std::size_t high, std::size_t low) override {
    channel_->high_ = high;
    channel_->low_ = low;
    channel_->MaybePauseWriting();
  }
  bool CanWriteEof() const override { return channel_->can_write_eof_; }
  void WriteEof() override {
    Channel& self = *channel_;
    if (self.channel_ == nullptr || self.closing_ || std::exchange(self.write_eof_, true)) return;
    self.channel_->WriteEof();
  }
  void Close() override {
    Channel& self = *channel_;
    if (std::exchange(self.closing_, true) || self.channel_ == nullptr) return;
    if (!self.ending_) self.channel_->Close();
    self.ConsumeAll();
  }
  void Abort(bool reset, absl::Status status) override {
    Channel& self = *channel_;
    if (self.detaching_ || (self.ending_ && self.closing_)) return;
    self.closing_ = true;
    self.pending_.Clear();
    self.eof_pending_ = false;
    if (self.channel_ != nullptr) {
      // The contract has no frame for an end that drops what waits and is no reset; a call does it.
      if (reset || !self.link_->DiscardAndClose(self.connection_.handle())) self.channel_->Abort();
    }
    self.End(std::move(status));
    self.DeliverLater();
    self.ConsumeAll();
  }
  bool is_closing() const override { return channel_->closing_ || channel_->ending_; }
  const streams::TlsInfo* tls_info() const override {
    return channel_->tls_info_.has_value() ? &*channel_->tls_info_ : nullptr;
  }
  const streams::SocketAddress& peername() const override { return channel_->peername_; }
  const streams::SocketAddress& sockname() const override { return channel_->sockname_; }

 private:
  const std::shared_ptr<Channel> channel_;
};

Channel::Channel(std::shared_ptr<Link> link, ConnectionOptions options)
    : link_(std::move(link)), options_(std::move(options)) {
  // It was said in the request; a channel that idles should be small.
  options_.broker.Clear();
}

Channel::~Channel() = default;

void Channel::Enter(session::ClientChannel* channel) {
  channel_ = channel;
  self_ = shared_from_this();
  link_->Add(this);
}

void Channel::Open(v1::OpenConnectionRequest request) {
  half_close_after_tls_ = request.tls().allow_half_close();
  Enter(link_->session()->Open(std::move(request), this));
}

void Channel::Open(v1::OpenUnixConnectionRequest request) {
  half_close_after_tls_ = request.tls().allow_half_close();
  Enter(link_->session()->Open(std::move(request), this));
}

void Channel::Bind(const std::string& handle, bool steal, std::optional<uint64_t> read_offset) {
  std::optional<session::Position> read;
  if (read_offset.has_value()) read = session::Position{*read_offset, 0};
  binding_ = true;
  connection_.set_handle(handle);
  Enter(link_->session()->Bind(handle, steal, read, this));
}

void Channel::Accepted(session::ClientChannel* channel, const v1::Connection& connection,
                       bool allow_half_close) {
  accepted_ = true;
  half_close_after_tls_ = allow_half_close;
  Enter(channel);
  OnBound(connection, channel->epoch());
}

streams::Task<absl::Status> Channel::WaitBound(std::shared_ptr<Channel> channel) {
  while (channel->epoch_ == 0 && channel->channel_ != nullptr) {
    if (absl::Status status = co_await channel->bound_.Wait(); !status.ok()) {
      if (channel->channel_ == nullptr) co_return status;
      // Somebody else's connection is left as it is.
      if (channel->binding_ && channel->channel_->asked()) {
        channel->channel_->Detach();
      } else {
        channel->channel_->Abort();
      }
      co_return status;
    }
  }
  if (channel->epoch_ != 0) co_return absl::OkStatus();
  if (!channel->end_.ok()) co_return channel->end_;
  // It had ended, and well, before anybody asked for it.
  v1::ErrorDetail detail;
  detail.set_reason(v1::CLOSED);
  detail.set_close_reason(channel->close_reason_);
  *detail.mutable_offsets() = channel->closed_offsets_;
  absl::Status closed = absl::FailedPreconditionError("the connection is closed");
  SetErrorDetail(detail, &closed);
  co_return closed;
}

absl::StatusOr<streams::Connection> Channel::MakeStreams(const std::shared_ptr<Channel>& channel) {
  streams::StreamOptions options;
  options.limit = channel->options_.limit;
  options.close_timeout = channel->options_.close_timeout;
  return streams::MakeConnection(channel->link_->loop(), std::make_shared<Stream>(channel),
                                 options);
}

// --- the session's calls

void Channel::OnBound(const v1::Connection& connection, uint64_t epoch) {
  const bool first = epoch_ == 0;
  epoch_ = epoch;
  if (first) {
    connection_ = connection;
    connection_.clear_options();
    peername_ = ToSocketAddress(connection.peer());
    sockname_ = ToSocketAddress(connection.local());
    if (connection.has_tls()) {
      tls_info_ = ToTlsInfo(connection.tls());
      // Who takes a connection up isn't told what was asked for; the broker ignores a half-close
      // that TLS can't have.
      can_write_eof_ = binding_ || half_close_after_tls_;
    }
    bound_.WakeAll();
    return;
  }
  if (options_.on_rebound) options_.on_rebound(epoch);
  OnProgress();
}

void Channel::OnData(absl::Cord bytes) {
  if (closing_) {
    ConsumeAll();
    return;
  }
  if (bytes.size() < kCopyBelow) bytes = absl::Cord(std::string(bytes));
  pending_.Append(std::move(bytes));
  if (protocol_ != nullptr && !deliver_scheduled_) Deliver();
}

void Channel::OnEof() {
  eof_pending_ = true;
  if (protocol_ != nullptr && !deliver_scheduled_) Deliver();
}

void Channel::OnTlsStarted(const v1::TlsInfo& info) {
  tls_info_ = ToTlsInfo(info);
  can_write_eof_ = half_close_after_tls_;
  upgrading_ = false;
  changed_.WakeAll();
}

void Channel::OnProgress() {
  changed_.WakeAll();
  if (!options_.on_progress) return;
  const ChannelOffsets now = offsets();
  options_.on_progress({now.acknowledged, now.written, now.taken, now.flushed});
}

void Channel::OnSent() {
  if (!writing_paused_ || channel_->unsent() > low_) return;
  writing_paused_ = false;
  if (protocol_ != nullptr) protocol_->OnResumeWriting();
}

void Channel::OnWriteClosed(const google::rpc::Status& status) {
  write_status_ = ToStatus(status);
  if (write_status_.ok()) return;
  changed_.WakeAll();
  // Nobody waits for room that will never be.
  if (std::exchange(writing_paused_, false) && protocol_ != nullptr) protocol_->OnResumeWriting();
}

void Channel::NoteClosed(const v1::Closed& closed) {
  close_reason_ = closed.reason();
  closed_offsets_ = closed.offsets();
}

void Channel::OnEnding(const v1::Closed& closed) {
  NoteClosed(closed);
  End(ToStatus(closed.status()));
}

void Channel::OnClosed(const v1::Closed& closed) {
  NoteClosed(closed);
  Leave(ToStatus(closed.status()));
}
void Channel::OnFailed(const google::rpc::Status& status) { Leave(ToStatus(status)); }

void Channel::OnDetached() {
  detached_ = true;
  v1::ErrorDetail detail;
  *detail.mutable_offsets() = OffsetsProto();
  Leave(StreamEndStatus(StreamEnd::kDetached, absl::StatusCode::kFailedPrecondition,
                        "the connection was detached", detail));
}

void Channel::OnFenced(uint64_t epoch) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::STALE_EPOCH);
  detail.set_epoch(epoch);
  *detail.mutable_offsets() = OffsetsProto();
  Leave(StreamEndStatus(StreamEnd::kFenced, absl::StatusCode::kAborted,
                        "another client has taken the connection", detail));
}

void Channel::OnLost(const v1::Offsets& last_known) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::LOST);
  *detail.mutable_offsets() = last_known;
  Leave(StreamEndStatus(
      StreamEnd::kLost, absl::StatusCode::kNotFound,
      absl::StrCat("the broker that had the connection is no more; of what was written it had ",
                   last_known.write_offset(), " bytes, and its kernel at least ",
                   last_known.flushed()),
      detail));
}

void Channel::OnLinkClosed(const absl::Status& reason) {
  v1::ErrorDetail detail = GetErrorDetail(reason).value_or(v1::ErrorDetail());
  *detail.mutable_offsets() = OffsetsProto();
  Leave(StreamEndStatus(StreamEnd::kGivenUp, reason.code(), reason.message(), detail));
}

void Channel::Leave(absl::Status status) {
  last_ = offsets();
  channel_ = nullptr;
  const std::shared_ptr<Channel> self = std::move(self_);
  link_->Remove(this);
  End(std::move(status));
  bound_.WakeAll();
  changed_.WakeAll();
}

// --- upwards

void Channel::End(absl::Status status) {
  if (std::exchange(ending_, true)) return;
  end_ = std::move(status);
  upgrading_ = false;
  changed_.WakeAll();
  DeliverLater();
}

void Channel::DeliverLater() {
  if (std::exchange(deliver_scheduled_, true)) return;
  link_->loop()->CallSoon([self = shared_from_this()] {
    self->deliver_scheduled_ = false;
    self->Deliver();
  });
}

void Channel::Deliver() {
  // The protocol may do anything from within, and put another in its place.
  if (const auto protocol = protocol_; protocol != nullptr && MayRead() && !pending_.empty()) {
    protocol->OnData(std::exchange(pending_, absl::Cord()));
  }
  if (const auto protocol = protocol_; protocol != nullptr && MayRead() && eof_pending_) {
    eof_pending_ = false;
    if (!protocol->OnEof() && !std::exchange(closing_, true) && channel_ != nullptr) {
      channel_->Close();
    }
  }
  // A pause keeps back the end too, but not from who has asked for it.
  if (protocol_ == nullptr || !ending_ || !(MayRead() || closing_)) return;
  std::exchange(protocol_, nullptr)->OnConnectionLost(end_);
}

void Channel::OnConsumed(std::size_t bytes) {
  if (channel_ == nullptr || closing_) return;
  if (options_.acknowledge_explicitly) {
    unacknowledged_ += bytes;
  } else {
    channel_->Consume(bytes);
  }
}

void Channel::OnReadBlocked(std::size_t buffered) {
  if (channel_ == nullptr || closing_) return;
  // The reader needs more at once than the window lets come.
  const uint64_t wanted = unacknowledged_ + 2 * uint64_t{buffered};
  if (wanted > channel_->in.window()) channel_->set_window(wanted);
}

void Channel::Acknowledge(uint64_t offset) {
  if (channel_ == nullptr || closing_) return;
  const uint64_t done = channel_->in.consumed().offset;
  const uint64_t bytes = offset > done ? std::min(offset - done, unacknowledged_) : 0;
  if (bytes == 0) return;
  unacknowledged_ -= bytes;
  channel_->Consume(bytes);
}

void Channel::ConsumeAll() {
  // Nobody will read it any more; but of a connection that is detached the next one will.
  if (detaching_) return;
  pending_.Clear();
  eof_pending_ = false;
  unacknowledged_ = 0;
  if (channel_ == nullptr) return;
  if (const uint64_t waiting = channel_->in.waiting(); waiting > 0) channel_->Consume(waiting);
}

// --- downwards

void Channel::MaybePauseWriting() {
  if (writing_paused_ || protocol_ == nullptr || channel_ == nullptr ||
      channel_->unsent() <= high_) {
    return;
  }
  writing_paused_ = true;
  protocol_->OnPauseWriting();
}

streams::Task<absl::Status> Channel::Flush(std::shared_ptr<Channel> channel) {
  const uint64_t until = channel->offsets().written;
  while (channel->offsets().flushed < until) {
    if (!channel->write_status_.ok()) co_return channel->write_status_;
    if (channel->channel_ == nullptr || channel->ending_) co_return channel->Gone();
    if (absl::Status status = co_await channel->changed_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

absl::Status Channel::Gone() const {
  return end_.ok() ? absl::UnavailableError("Connection lost") : end_;
}

streams::Task<absl::Status> Channel::WaitTaken(std::shared_ptr<Channel> channel) {
  // An end that the broker has told of came behind all that it was asked for.
  while (channel->channel_ != nullptr && !channel->ending_) {
    if (channel->channel_->out.taken() == channel->channel_->written()) co_return absl::OkStatus();
    if (!channel->write_status_.ok()) co_return channel->write_status_;
    if (absl::Status status = co_await channel->changed_.Wait(); !status.ok()) co_return status;
  }
  const ChannelOffsets last = channel->offsets();
  co_return last.taken >= last.written && channel->end_.ok() ? absl::OkStatus() : channel->Gone();
}

streams::Task<absl::Status> Channel::WaitProgress(std::shared_ptr<Channel> channel) {
  const ChannelOffsets before = channel->offsets();
  while (channel->channel_ != nullptr && !channel->ending_) {
    const ChannelOffsets now = channel->offsets();
    if (now.taken > before.taken || now.flushed > before.flushed) co_return absl::OkStatus();
    if (absl::Status status = co_await channel->changed_.Wait(); !status.ok()) co_return status;
  }
  co_return channel->Gone();
}

streams::Task<absl::Status> Channel::StartTls(std::shared_ptr<Channel> channel,
                                              v1::TlsOptions options,
                                              v1::StartTlsRequest::Side side) {
  if (channel->channel_ == nullptr || channel->closing_ || channel->ending_) {
    co_return streams::ErrnoToStatus(ECONNRESET, "Connection lost");
  }
  if (side == v1::StartTlsRequest::SIDE_UNSPECIFIED) {
    side = channel->accepted_ ? v1::StartTlsRequest::SERVER : v1::StartTlsRequest::CLIENT;
  }
  // What the application was given is plaintext and its own, acknowledged or not.
  if (const uint64_t given = std::exchange(channel->unacknowledged_, 0); given > 0) {
    channel->channel_->Consume(given);
  }
  channel->pending_.Clear();
  channel->upgrading_ = true;
  channel->can_write_eof_ = false;
  channel->half_close_after_tls_ = options.allow_half_close();
  channel->channel_->StartTls(std::move(options), side);
  while (channel->upgrading_) {
    if (absl::Status status = co_await channel->changed_.Wait(); !status.ok()) {
      if (channel->channel_ != nullptr) channel->channel_->Abort();
      channel->End(status);
      co_return status;
    }
  }
  if (channel->tls_info_.has_value() && !channel->ending_) co_return absl::OkStatus();
  co_return channel->end_.ok() ? streams::ErrnoToStatus(ECONNRESET, "Connection lost")
                               : channel->end_;
}

streams::Task<absl::StatusOr<ChannelOffsets>> Channel::Detach(std::shared_ptr<Channel> channel) {
  if (channel->channel_ == nullptr || channel->ending_) {
    co_return channel->end_.ok() ? streams::ErrnoToStatus(ECONNRESET, "Connection lost")
                                 : channel->end_;
  }
  if (channel->closing_) co_return absl::FailedPreconditionError("detach() after close()");
  channel->closing_ = channel->detaching_ = true;
  channel->pending_.Clear();
  channel->eof_pending_ = false;
  // What it had read and not acknowledged is its own to say: the next one finds it again.
  channel->channel_->Detach();
  v1::ErrorDetail detail;
  *detail.mutable_offsets() = channel->OffsetsProto();
  channel->End(StreamEndStatus(StreamEnd::kDetached, absl::StatusCode::kFailedPrecondition,
                               "the connection was detached", detail));
  while (channel->channel_ != nullptr) {
    if (absl::Status status = co_await channel->changed_.Wait(); !status.ok()) co_return status;
  }
  if (!channel->detached_) co_return absl::AbortedError("the connection ended before it was left");
  co_return channel->last_;
}

ChannelOffsets Channel::offsets() const {
  if (channel_ == nullptr) return last_;
  ChannelOffsets now;
  now.acknowledged = channel_->in.consumed().offset;
  now.read = now.acknowledged + unacknowledged_;
  now.written = channel_->written().offset;
  now.flushed = std::max(channel_->broker_flushed(), closed_offsets_.flushed());
  // The last acks may have been spared by a Closed.
  now.taken = std::max(channel_->out.taken().offset, now.flushed);
  return now;
}

v1::Offsets Channel::OffsetsProto() const {
  const ChannelOffsets now = offsets();
  v1::Offsets proto;
  proto.set_read_offset(now.read);
  proto.set_read_kept(now.acknowledged);
  proto.set_write_offset(now.taken);
  proto.set_flushed(now.flushed);
  return proto;
}

}  // namespace sockbroker::client::internal
