#include "streams/socket_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "streams/error.h"
#include "streams/internal/block.h"

namespace sockbroker::streams {
namespace {

constexpr std::size_t kMaxRead = 256 * 1024;  // as asyncio: at most so much from one read
static_assert(EventLoop::kScratchSize >= kMaxRead);
constexpr std::size_t kBulkBlock = 64 * 1024;
static_assert(internal::Block::kSize >= kBulkBlock);
constexpr std::size_t kBulkBlocks = kMaxRead / kBulkBlock;
// From so much in one read on, the next read goes straight into blocks of its own.
constexpr std::size_t kBulkThreshold = 16 * 1024;
constexpr int kMaxIovecs = 64;

// recv into `iov`. `*more`: it took all the room there was, or stopped short of what follows: at a
// message that a descriptor is attached to, which is dropped.
ssize_t ReceiveMessage(int fd, iovec* iov, std::size_t count, bool* more) {
  msghdr message{};
  message.msg_iov = iov;
  message.msg_iovlen = count;
  std::size_t room = 0;
  for (std::size_t i = 0; i < count; ++i) room += iov[i].iov_len;
  const ssize_t received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
  *more = received == static_cast<ssize_t>(room) || (message.msg_flags & MSG_CTRUNC) != 0;
  return received;
}

// ReceiveMessage, at most `size` bytes, into blocks that become the Cord.
ssize_t ReceiveBulk(int fd, std::size_t size, absl::Cord* data, bool* more) {
  std::array<std::optional<internal::Block>, kBulkBlocks> blocks;
  std::array<iovec, kBulkBlocks> iov;
  std::size_t count = 0;
  for (std::size_t room = 0; room < size; room += kBulkBlock, ++count) {
    iov[count] = {blocks[count].emplace().data(), std::min(kBulkBlock, size - room)};
  }
  const ssize_t received = ReceiveMessage(fd, iov.data(), count, more);
  std::size_t left = received > 0 ? static_cast<std::size_t>(received) : 0;
  for (std::size_t i = 0; left > 0; ++i) {
    const std::size_t used = std::min(left, kBulkBlock);
    data->Append(std::move(*blocks[i]).ToCord(used));
    left -= used;
  }
  return received;
}

// The same, into the loop's scratch, then a copy of just what came: an idle connection holds no
// buffer. `plain`: no descriptors come this way, and recv costs the kernel less.
ssize_t ReceiveSmall(int fd, char* scratch, std::size_t size, bool plain, absl::Cord* data,
                     bool* more) {
  ssize_t received = 0;
  if (plain) {
    received = recv(fd, scratch, size, 0);
    *more = received == static_cast<ssize_t>(size);
  } else {
    iovec room{scratch, size};
    received = ReceiveMessage(fd, &room, 1, more);
  }
  if (received > 0) *data = absl::string_view(scratch, static_cast<std::size_t>(received));
  return received;
}

// Offers the kernel the first `*offered` bytes of `data`.
ssize_t SendOnce(int fd, const absl::Cord& data, std::size_t* offered) {
  constexpr int kFlags = MSG_NOSIGNAL | MSG_DONTWAIT;
  if (const auto flat = data.TryFlat()) {
    *offered = flat->size();
    return send(fd, flat->data(), flat->size(), kFlags);
  }
  std::array<iovec, kMaxIovecs> iov;
  msghdr message{};
  message.msg_iov = iov.data();
  *offered = 0;
  for (const absl::string_view chunk : data.Chunks()) {
    iov[message.msg_iovlen++] = {const_cast<char*>(chunk.data()), chunk.size()};
    *offered += chunk.size();
    if (message.msg_iovlen == kMaxIovecs) break;
  }
  return sendmsg(fd, &message, kFlags);
}

}  // namespace

absl::StatusOr<std::shared_ptr<SocketStream>> SocketStream::Create(EventLoop* loop,
                                                                   Descriptor socket) {
  if (absl::Status status = MakeNonBlocking(socket.get()); !status.ok()) return status;
  std::shared_ptr<SocketStream> stream(new SocketStream(loop, std::move(socket)));
  if (stream->sockname_.is_ip()) {
    const int one = 1;
    setsockopt(stream->fd(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  }
  absl::StatusOr<internal::PollRegistration*> registration =
      loop->Register(stream->fd(), stream.get());
  if (!registration.ok()) return registration.status();
  stream->registration_ = *registration;
  loop->AddShutdownListener(stream.get());
  return stream;
}

SocketStream::SocketStream(EventLoop* loop, Descriptor socket)
    : loop_(loop),
      socket_(std::move(socket)),
      peername_(SocketAddress::OfPeer(socket_.get())),
      sockname_(SocketAddress::OfLocal(socket_.get())),
      read_size_(kMaxRead) {}

SocketStream::~SocketStream() {
  // Never started, or lost already.
  if (registration_ != nullptr) {
    loop_->Deregister(socket_.get(), registration_);
    loop_->RemoveShutdownListener(this);
  }
}

void SocketStream::Start(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
  self_ = shared_from_this();
  loop_->CallSoon([self = self_] {
    if (self->closing_) return;
    self->reading_ = true;
    if (self->readable_ && self->wants_data()) self->ReadSome();
  });
}

// --- reading

void SocketStream::OnPollEvents(uint32_t events) {
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) hung_up_ = true;
  if ((events & EPOLLPRI) != 0) urgent_ = true;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) readable_ = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) writable_ = true;
  if (readable_ && wants_data() && !read_scheduled_) ReadSome();
  if (writable_ && !unsent_.empty() && !losing_) FlushSome();
}

void SocketStream::PauseReading() { paused_ = true; }

void SocketStream::ResumeReading() {
  if (!paused_) return;
  paused_ = false;
  if (readable_ && reading_) ReadAgainLater();
}

void SocketStream::SetReadSize(std::size_t most) {
  read_size_ = std::clamp<std::size_t>(most, 1, kMaxRead);
}

void SocketStream::ReadAgainLater() {
  if (read_scheduled_) return;
  read_scheduled_ = true;
  loop_->CallSoon([self = shared_from_this()] {
    self->read_scheduled_ = false;
    if (self->readable_ && self->wants_data()) self->ReadSome();
  });
}

void SocketStream::ReadSome() {
  absl::Cord data;
  bool more = false;
  ssize_t received;
  do {
    received =
        bulk_ ? ReceiveBulk(fd(), read_size_, &data, &more)
              : ReceiveSmall(fd(), loop_->scratch(), read_size_, sockname_.is_ip(), &data, &more);
  } while (received < 0 && errno == EINTR);
  if (received > 0) {
    bulk_ = static_cast<std::size_t>(received) >= kBulkThreshold;
    // A read that did not fill its room has emptied the socket: the next byte makes a new edge. But
    // of an EOF or error that was told already there will be no further edge; and a read stops
    // short at the mark of urgent data, behind which more may wait already.
    readable_ = more || hung_up_ || urgent_;
    protocol_->OnData(std::move(data));
    if (readable_ && wants_data()) ReadAgainLater();
  } else if (received == 0) {
    reading_ = false;
    if (!protocol_->OnEof()) Close();
  } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
    readable_ = false;
  } else {
    FailWith(ErrnoToStatus(errno, "recv"));
  }
}

void SocketStream::ReadRest() {
  while (true) {
    absl::Cord data;
    bool more = false;
    const ssize_t received =
        ReceiveSmall(fd(), loop_->scratch(), kMaxRead, sockname_.is_ip(), &data, &more);
    if (received <= 0) return;
    protocol_->OnData(std::move(data));
  }
}

// --- writing

void SocketStream::Write(absl::Cord data) {
  if (losing_ || data.empty()) return;
  if (unsent_.empty()) {
    if (!Send(&data) || data.empty()) return;
  }
  unsent_.Append(std::move(data));
  if (unsent_.size() > high_water_ && !writing_paused_) {
    writing_paused_ = true;
    protocol_->OnPauseWriting();
  }
}

bool SocketStream::Send(absl::Cord* data) {
  while (!data->empty() && writable_) {
    std::size_t offered = 0;
    const ssize_t sent = SendOnce(fd(), *data, &offered);
    if (sent >= 0) {
      bytes_flushed_ += static_cast<uint64_t>(sent);
      data->RemovePrefix(static_cast<std::size_t>(sent));
      if (static_cast<std::size_t>(sent) < offered) writable_ = false;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      writable_ = false;
    } else if (errno != EINTR) {
      FailWith(ErrnoToStatus(errno, "send"));
      return false;
    }
  }
  return true;
}

void SocketStream::FlushSome() {
  if (!Send(&unsent_)) return;
  protocol_->OnFlushed();
  if (writing_paused_ && unsent_.size() <= low_water_) {
    writing_paused_ = false;
    protocol_->OnResumeWriting();
  }
  if (!unsent_.empty()) return;
  if (closing_) {
    LoseLater(absl::OkStatus());
  } else if (write_eof_) {
    shutdown(fd(), SHUT_WR);
  }
}

void SocketStream::SetWriteBufferLimits(std::size_t high, std::size_t low) {
  high_water_ = high;
  low_water_ = low;
  // asyncio: the new mark counts at once.
  if (!writing_paused_ && unsent_.size() > high_water_) {
    writing_paused_ = true;
    protocol_->OnPauseWriting();
  }
}

void SocketStream::WriteEof() {
  if (closing_ || write_eof_) return;
  write_eof_ = true;
  if (unsent_.empty()) shutdown(fd(), SHUT_WR);
}

// --- the end

void SocketStream::Close() {
  if (closing_) return;
  closing_ = true;
  reading_ = false;
  if (unsent_.empty()) LoseLater(absl::OkStatus());
}

void SocketStream::Abort(bool reset, absl::Status status) {
  if (registration_ == nullptr) return;
  reset_ |= reset;
  closing_ = true;
  reading_ = read_rest_ = false;
  LoseLater(std::move(status));
}

void SocketStream::FailWith(absl::Status status) {
  // What came before the end is readable before it: a failed send says nothing about what was
  // received. Read by Lose, for this may be inside the protocol's own Write.
  read_rest_ = reading_ && !losing_;
  closing_ = true;
  reading_ = false;
  LoseLater(std::move(status));
}

void SocketStream::LoseLater(absl::Status status) {
  unsent_.Clear();
  if (losing_) return;
  losing_ = true;
  loop_->CallSoon([self = shared_from_this(), why = std::move(status)] { self->Lose(why); });
}

void SocketStream::Lose(const absl::Status& status) {
  if (registration_ == nullptr) return;
  if (read_rest_) ReadRest();
  loop_->Deregister(fd(), std::exchange(registration_, nullptr));
  loop_->RemoveShutdownListener(this);
  if (reset_) {
    const linger hard{.l_onoff = 1, .l_linger = 0};
    setsockopt(fd(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  }
  socket_.Reset();
  const std::shared_ptr<SocketStream> self = std::move(self_);
  // Never started: nobody to tell.
  if (const std::shared_ptr<StreamProtocol> protocol = std::move(protocol_)) {
    protocol->OnConnectionLost(status);
  }
}

void SocketStream::OnLoopShutdown() {
  closing_ = losing_ = true;
  reading_ = read_rest_ = false;
  unsent_.Clear();
  // Keeps this alive until the call returns.
  const std::shared_ptr<SocketStream> self = shared_from_this();
  Lose(absl::CancelledError("the event loop is gone"));
}

}  // namespace sockbroker::streams
