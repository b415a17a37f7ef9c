#include "streams/internal/server_core.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/error.h"
#include "streams/internal/tls_setup.h"
#include "streams/socket_stream.h"
#include "streams/with_cancel.h"

namespace sockbroker::streams::internal {
namespace {

// asyncio's ACCEPT_RETRY_DELAY.
constexpr absl::Duration kAcceptRetryDelay = absl::Seconds(1);

// Handshakes that a server which accepts on demand runs at a time.
constexpr std::size_t kMaxHandshakes = 64;

bool IsExhaustion(int os_errno) {
  return os_errno == EMFILE || os_errno == ENFILE || os_errno == ENOBUFS || os_errno == ENOMEM;
}

// Errors of the connection that accept() would have returned, not of the listener (accept(2),
// "Error handling").
bool IsOfTheConnection(int os_errno) {
  return os_errno == ECONNABORTED || os_errno == EINTR || os_errno == ENETDOWN ||
         os_errno == EPROTO || os_errno == ENOPROTOOPT || os_errno == EHOSTDOWN ||
         os_errno == ENONET || os_errno == EHOSTUNREACH || os_errno == EOPNOTSUPP ||
         os_errno == ENETUNREACH;
}

}  // namespace

// One listening socket.
class ServerCore::Listener final : private PollHandler {
 public:
  Listener(ServerCore* server, Descriptor socket, std::optional<std::string> unlink_path)
      : server_(server),
        socket_(std::move(socket)),
        sockname_(SocketAddress::OfLocal(socket_.get())),
        unlink_path_(std::move(unlink_path)),
        retry_(server->loop_, [this] { ReadyAgain(); }) {
    struct stat file;
    if (unlink_path_.has_value() && stat(unlink_path_->c_str(), &file) == 0) {
      device_ = file.st_dev;
      inode_ = file.st_ino;
    }
  }
  ~Listener() {
    if (registration_ != nullptr) server_->loop_->Deregister(socket_.get(), registration_);
    // Only the file that bind() made: by now the name may be another server's.
    struct stat file;
    if (unlink_path_.has_value() && lstat(unlink_path_->c_str(), &file) == 0 &&
        file.st_dev == device_ && file.st_ino == inode_) {
      unlink(unlink_path_->c_str());
    }
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  absl::Status Listen(int backlog) {
    if (registration_ != nullptr) return absl::OkStatus();  // by a call that failed at another
    if (listen(socket_.get(), backlog) != 0) return ErrnoToStatus(errno, "listen");
    absl::StatusOr<PollRegistration*> registration = server_->loop_->Register(socket_.get(), this);
    if (!registration.ok()) return registration.status();
    registration_ = *registration;
    // listen() gives a socket that was not bound an address.
    sockname_ = SocketAddress::OfLocal(socket_.get());
    return absl::OkStatus();
  }

  // An accepted socket. EAGAIN in the status: the backlog is empty.
  absl::StatusOr<Descriptor> Accept() {
    while (true) {
      Descriptor client(accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (client.valid()) return client;
      if (errno == EAGAIN || errno == EWOULDBLOCK) acceptable_ = false;
      // A client that gave up in the backlog doesn't end the turn of those behind it.
      if (!IsOfTheConnection(errno)) return ErrnoToStatus(errno, "accept");
    }
  }

  bool acceptable() const { return acceptable_ && !retry_.armed(); }
  // The process has no descriptor or memory to spare: leave the backlog alone for a while, rather
  // than spin.
  void Pause() { retry_.SetAfter(kAcceptRetryDelay); }
  // More than one turn's worth was waiting.
  void ContinueLater() { retry_.SetAfter(absl::ZeroDuration()); }
  const SocketAddress& sockname() const { return sockname_; }

 private:
  void OnPollEvents(uint32_t events) override {
    if ((events & EPOLLIN) == 0) return;
    acceptable_ = true;
    if (!retry_.armed()) ReadyAgain();
  }
  void ReadyAgain() {
    if (server_->options_.accept == AcceptMode::kOnDemand) {
      server_->acceptable_.WakeOne();
    } else {
      server_->AcceptEagerly(this);
    }
  }

  ServerCore* const server_;
  Descriptor socket_;
  SocketAddress sockname_;
  const std::optional<std::string> unlink_path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  PollRegistration* registration_ = nullptr;
  bool acceptable_ = false;  // edge-triggered: what the kernel last said
  Timer retry_;
};

ServerCore::ServerCore(EventLoop* loop, ClientConnected client_connected,
                       const ServerOptions& options)
    : loop_(loop), client_connected_(std::move(client_connected)), options_(options) {
  loop_->AddShutdownListener(this);
}

ServerCore::~ServerCore() {
  // A closed server has let go of its loop, which may be gone.
  Close();
}

void ServerCore::AddListener(Descriptor socket, std::optional<std::string> unlink_path) {
  listeners_.push_back(std::make_unique<Listener>(this, std::move(socket), std::move(unlink_path)));
}

Server ServerCore::MakeHandle(std::shared_ptr<ServerCore> core) {
  // Copies of the handle share this; the last one closes the server, while connections may keep the
  // core.
  std::shared_ptr<void> owner(core.get(), [core](void*) { core->Close(); });
  return Server(std::move(owner), std::move(core));
}

std::vector<SocketAddress> ServerCore::sockets() const {
  std::vector<SocketAddress> addresses;
  for (const auto& listener : listeners_) addresses.push_back(listener->sockname());
  return addresses;
}

Task<absl::Status> ServerCore::StartServing(std::shared_ptr<ServerCore> core) {
  co_return core->Listen();
}

absl::Status ServerCore::Listen() {
  if (closed_) return absl::FailedPreconditionError("server is closed");
  if (serving_) return absl::OkStatus();
  for (const auto& listener : listeners_) {
    if (absl::Status status = listener->Listen(options_.backlog); !status.ok()) return status;
  }
  serving_ = true;
  return absl::OkStatus();
}

Task<absl::Status> ServerCore::ServeForever(std::shared_ptr<ServerCore> core) {
  if (core->forever_) {
    co_return absl::FailedPreconditionError("server is already being awaited on serve_forever()");
  }
  if (core->closed_) co_return absl::FailedPreconditionError("server is closed");
  if (absl::Status status = core->Listen(); !status.ok()) co_return status;
  core->forever_ = true;
  absl::Status status;
  while (status.ok() && !core->closed_) status = co_await core->changed_.Wait();
  core->forever_ = false;
  if (status.ok()) co_return absl::CancelledError("server is closed");
  core->Close();
  (void)co_await Shielded(WaitClosed(core));
  co_return status;
}

Task<absl::Status> ServerCore::WaitClosed(std::shared_ptr<ServerCore> core) {
  while (!core->closed_ || !core->active_.empty()) {
    if (absl::Status status = co_await core->changed_.Wait(); !status.ok()) co_return status;
  }
  co_return absl::OkStatus();
}

void ServerCore::Close() {
  if (closed_) return;
  closed_ = true;
  serving_ = false;
  loop_->RemoveShutdownListener(this);
  listeners_.clear();
  established_.clear();
  acceptable_.WakeAll(absl::FailedPreconditionError("server is closed"));
  changed_.WakeAll();
}

void ServerCore::OnLoopShutdown() {
  // A server nobody closed goes with its loop. Connections it held follow on their own.
  const std::shared_ptr<ServerCore> self = weak_from_this().lock();
  Close();
}

std::vector<std::shared_ptr<StreamCore>> ServerCore::ActiveCores() const {
  std::vector<std::shared_ptr<StreamCore>> cores;
  for (const auto& [raw, weak] : active_) {
    if (std::shared_ptr<StreamCore> core = weak.lock()) cores.push_back(std::move(core));
  }
  return cores;
}

std::size_t ServerCore::CloseClients() {
  const auto cores = ActiveCores();
  for (const auto& core : cores) core->Close(/*discard_pending=*/false);
  return cores.size();
}

std::size_t ServerCore::AbortClients() {
  const auto cores = ActiveCores();
  for (const auto& core : cores) core->Abort(absl::OkStatus());
  return cores.size();
}

absl::StatusOr<ServerCore::Accepted> ServerCore::AcceptFrom(Listener* listener) {
  absl::StatusOr<Descriptor> socket = listener->Accept();
  if (!socket.ok()) return socket.status();
  absl::StatusOr<std::shared_ptr<SocketStream>> stream =
      SocketStream::Create(loop_, *std::move(socket));
  if (!stream.ok()) return stream.status();
  if (absl::Status status = options_.socket.ApplyTo((*stream)->fd()); !status.ok()) return status;
  Accepted accepted;
  std::shared_ptr<ByteStream> top = *std::move(stream);
  if (options_.tls.context != nullptr) {
    absl::StatusOr<std::shared_ptr<TlsStream>> tls = ServerTlsOver(loop_, top, options_.tls);
    if (!tls.ok()) return tls.status();
    top = accepted.tls = *std::move(tls);
  }
  auto core = std::make_shared<StreamCore>(loop_, std::move(top), options_.stream);
  active_.emplace(core.get(), core);
  accepted_total_++;
  core->set_on_lost([self = shared_from_this(), raw = core.get()] {
    self->active_.erase(raw);
    if (self->client_connected_ == nullptr) {
      std::erase_if(self->held_, [](const StreamWriter& writer) { return writer.IsClosed(); });
    }
    self->changed_.WakeAll();
  });
  accepted.connection = StreamCore::Start(core);
  return accepted;
}

// --- eager, as asyncio

void ServerCore::AcceptEagerly(Listener* listener) {
  const std::shared_ptr<ServerCore> self = shared_from_this();
  // asyncio's bound for one turn of the loop.
  for (int i = 0; i <= options_.backlog; ++i) {
    absl::StatusOr<Accepted> accepted = AcceptFrom(listener);
    if (accepted.ok()) {
      if (accepted->tls != nullptr) {
        loop_->Spawn(ServeAfterHandshake(self, *std::move(accepted)));
      } else {
        Serve(std::move(accepted->connection));
      }
      continue;
    }
    const int os_errno = GetErrno(accepted.status());
    if (os_errno == EAGAIN) return;
    const bool exhausted = IsExhaustion(os_errno);
    if (exhausted) listener->Pause();
    loop_->CallExceptionHandler(
        {exhausted ? "accept: out of descriptors or memory, trying again in 1 s" : "accept failed",
         accepted.status(), nullptr});
    // The handler may have closed the server, and the listener with it.
    if (exhausted || closed_) return;
  }
  listener->ContinueLater();
}

Task<void> ServerCore::ServeAfterHandshake(std::shared_ptr<ServerCore> core, Accepted accepted) {
  // One that fails has closed its connection; asyncio says nothing of it either.
  if ((co_await TlsStream::WaitHandshake(std::move(accepted.tls))).ok()) {
    core->Serve(std::move(accepted.connection));
  }
}

void ServerCore::Serve(Connection connection) {
  if (client_connected_ == nullptr) {
    held_.push_back(std::move(connection.writer));
    return;
  }
  loop_->Spawn(RunCallback(shared_from_this(), std::move(connection)));
}

Task<void> ServerCore::RunCallback(std::shared_ptr<ServerCore> core, Connection connection) {
  // Keeps the writer for the case that the callback throws; a callback that returns has dropped its
  // own.
  StreamWriter writer = connection.writer;
  std::exception_ptr thrown;
  try {
    co_await core->client_connected_(std::move(connection.reader), std::move(connection.writer));
  } catch (...) {
    thrown = std::current_exception();
  }
  if (thrown) {
    core->loop_->CallExceptionHandler(
        {"Unhandled exception in client_connected_cb", absl::OkStatus(), thrown});
    writer.Close();
  }
}

// --- on demand

absl::StatusOr<ServerCore::Accepted> ServerCore::AcceptFromAny() {
  for (const auto& listener : listeners_) {
    if (!listener->acceptable()) continue;
    absl::StatusOr<Accepted> accepted = AcceptFrom(listener.get());
    if (accepted.ok()) return accepted;
    const int os_errno = GetErrno(accepted.status());
    if (os_errno == EAGAIN) continue;
    if (IsExhaustion(os_errno)) listener->Pause();
    return accepted.status();
  }
  return ErrnoToStatus(EAGAIN, "accept");
}

absl::Status ServerCore::BeginHandshakes() {
  // Enough that a few peers that stall don't hold up the others.
  while (handshaking_ + established_.size() < kMaxHandshakes) {
    absl::StatusOr<Accepted> accepted = AcceptFromAny();
    if (!accepted.ok()) return accepted.status();
    handshaking_++;
    loop_->Spawn(EstablishForAccept(shared_from_this(), *std::move(accepted)));
  }
  return absl::OkStatus();
}

Task<void> ServerCore::EstablishForAccept(std::shared_ptr<ServerCore> core, Accepted accepted) {
  const absl::Status status = co_await TlsStream::WaitHandshake(std::move(accepted.tls));
  core->handshaking_--;
  if (status.ok() && !core->closed_) core->established_.push_back(std::move(accepted.connection));
  core->acceptable_.WakeOne();
}

Task<absl::StatusOr<Connection>> ServerCore::Accept(std::shared_ptr<ServerCore> core) {
  if (core->options_.accept != AcceptMode::kOnDemand) {
    co_return absl::FailedPreconditionError("the server gives its connections to a callback");
  }
  while (true) {
    if (core->closed_) co_return absl::FailedPreconditionError("server is closed");
    if (!core->serving_) co_return absl::FailedPreconditionError("server is not serving");
    absl::Status status;
    std::optional<Connection> connection;
    if (core->options_.tls.context == nullptr) {
      absl::StatusOr<Accepted> accepted = core->AcceptFromAny();
      status = accepted.status();
      if (accepted.ok()) connection = std::move(accepted->connection);
    } else {
      status = core->BeginHandshakes();
      if (!core->established_.empty()) {
        connection = std::move(core->established_.front());
        core->established_.pop_front();
      }
    }
    if (connection.has_value() || (!status.ok() && GetErrno(status) != EAGAIN)) {
      // Whoever waits next may find more: one edge can stand for several connections.
      core->acceptable_.WakeOne();
      if (!connection.has_value()) co_return status;
      co_return *std::move(connection);
    }
    status = co_await core->acceptable_.Wait();
    if (!status.ok()) co_return status;
  }
}

}  // namespace sockbroker::streams::internal
