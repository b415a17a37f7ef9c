#include "simulation.h"

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "session/broker_session.h"
#include "session/client_session.h"

namespace sockbroker::session {
namespace {

constexpr char kPoison = '\xff';  // what a fenced client writes; no stream carries it

// --- the oracle: what each stream carries, byte by byte

char Pattern(int connection, char direction, uint64_t index) {
  const uint64_t mixed = (index * 2654435761u) ^ (static_cast<uint64_t>(connection) * 97u) ^
                         static_cast<uint64_t>(direction);
  return static_cast<char>(mixed % 251);
}

std::string PatternRange(int connection, char direction, uint64_t from, uint64_t size) {
  std::string text(size, '\0');
  for (uint64_t i = 0; i < size; ++i) text[i] = Pattern(connection, direction, from + i);
  return text;
}

class World;

// What the test wants of one connection: how much either side says, and when TLS begins.
struct Script {
  uint64_t from_peer = 0;
  uint64_t from_client = 0;
  bool tls = false;
  uint64_t peer_plain = 0;      // what the peer says before TLS
  uint64_t client_plain = 0;    // likewise the client
  uint64_t handshake_size = 0;  // raw bytes of the peer's that belong to the handshake
};

// The broker's socket, and the peer behind it.
class Socket final : public BrokerConnection, public std::enable_shared_from_this<Socket> {
 public:
  Socket(World* world, int id, Script script) : world_(world), id_(id), script_(script) {}

  absl::Cord Read(std::size_t max, std::size_t retained) override;
  bool AtEof() const override {
    return unread_.empty() && read_index_ == script_.from_peer && peer_said_ == RawTotal() &&
           (!script_.tls || tls_started_);
  }
  bool Exhausted() const override { return unread_.empty() && ((gone && close_asked_) || AtEof()); }
  ReadMarkLog& read_marks() override { return marks_; }
  absl::Status Write(absl::Cord bytes) override;
  uint64_t Flushed() const override { return flushed_; }
  void WriteEof() override;
  void StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) override;
  void Close() override { close_asked_ = true; }
  void Abort() override { Finish(); }
  void Unbind(Position read, absl::Cord unread, Position write) override;

  // Lets the peer say something, the kernel take something, a handshake go on. True if anything
  // happened.
  bool Step(std::mt19937_64* random);
  void Finish();

  int id() const { return id_; }
  const Script& script() const { return script_; }

  // What the broker keeps of the connection besides.
  std::string handle;
  std::string request_id;
  std::string holder;
  uint64_t attempt = 0;
  uint64_t epoch = 0;
  BrokerChannel* channel = nullptr;
  BrokerSession* session = nullptr;
  bool claimed = true;
  bool gone = false;
  Position read_position;
  Position write_position;
  bool peer_got_eof = false;

 private:
  // Everything the peer puts on the wire: plain bytes, the handshake, and what is decrypted later.
  uint64_t RawTotal() const {
    return script_.from_peer + (script_.tls ? script_.handshake_size : 0);
  }
  std::string TakeRaw(std::size_t max);
  void ContinueHandshake();

  World* const world_;
  const int id_;
  const Script script_;
  ReadMarkLog marks_;
  absl::Cord unread_;        // given back by an earlier binding
  uint64_t read_index_ = 0;  // application bytes of the peer's read so far
  uint64_t peer_said_ = 0;   // raw
  uint64_t raw_read_ = 0;
  std::string handshake_;
  bool in_handshake_ = false;
  bool tls_started_ = false;
  uint64_t written_ = 0;
  uint64_t flushed_ = 0;
  bool eof_written_ = false;
  bool close_asked_ = false;
  bool slow_ = false;
};

// One client process: its session and what its application knows.
class Client;

class Application final : public ClientListener {
 public:
  Application(World* world, Client* client, std::shared_ptr<Socket> socket)
      : world_(world), client_(client), socket_(std::move(socket)) {}

  void OnBound(const v1::Connection&, uint64_t) override {
    bound_ = true;
    written_ = channel->written().offset;
    // Whoever takes over learns here what its predecessor had said: eof is its first mark, close
    // its second.
    if (!socket_->script().tls) {
      eof_written_ = channel->written().marks >= 1;
      closed_ = channel->written().marks >= 2;
    }
  }
  void OnData(absl::Cord bytes) override { received_.append(std::string(bytes)); }
  void OnEof() override;
  void OnTlsStarted(const v1::TlsInfo&) override { tls_ = true; }
  void OnProgress() override {}
  void OnWriteClosed(const google::rpc::Status&) override {}
  void OnClosed(const v1::Closed& closed) override;
  void OnFailed(const google::rpc::Status& status) override;
  void OnDetached() override;
  void OnFenced(uint64_t epoch) override;
  void OnLost(const v1::Offsets& last) override;

  bool Step(std::mt19937_64* random);
  std::string Describe() const;

  ClientChannel* channel = nullptr;
  bool done = false;
  bool poisoned = false;

 private:
  friend class World;
  friend class Client;
  World* const world_;
  Client* const client_;
  const std::shared_ptr<Socket> socket_;
  bool bound_ = false;
  std::string received_;   // given and not consumed
  uint64_t consumed_ = 0;  // application bytes, in the oracle's count
  uint64_t written_ = 0;
  bool eof_written_ = false;
  bool eof_seen_ = false;
  bool tls_asked_ = false;
  bool tls_ = false;
  bool closed_ = false;
};

class Client final : public AcceptListener {
 public:
  Client(World* world, std::string holder, uint64_t window, uint64_t flight)
      : world_(world), holder_(holder), session(std::move(holder), window, flight) {}
  ClientListener* OnAccepted(ClientChannel* channel, const v1::Connection& connection) override;
  void OnFailed(const google::rpc::Status&) override {}

  const std::string& holder() const { return holder_; }
  bool finished() const {
    for (const auto& application : applications) {
      if (!application->done) return false;
    }
    return true;
  }

 private:
  World* const world_;
  const std::string holder_;

 public:
  std::vector<std::unique_ptr<Application>> applications;
  ClientSession session;
  // Its link: messages under way, in order.
  bool up = false;
  std::deque<absl::Cord> to_broker;
  std::deque<absl::Cord> to_client;
  std::unique_ptr<BrokerSession> broker;
  std::unique_ptr<BrokerSession::Host> host;
};

// The broker's side of one session.
class SessionHost final : public BrokerSession::Host {
 public:
  SessionHost(World* world, Client* client) : world_(world), client_(client) {}
  void Open(v1::Open request) override;
  void Bind(v1::Bind request, const std::string& holder) override;
  void Listen(v1::Listen request) override;
  void StopListening(uint32_t) override { listening = 0; }
  void Claimed(BrokerConnection* connection) override {
    static_cast<Socket*>(connection)->claimed = true;
  }
  uint64_t GrowWindow(BrokerConnection*, uint64_t window) override {
    return std::min<uint64_t>(2 * window, 1 << 20);
  }
  void ShrinkWindow(BrokerConnection*, uint64_t) override;
  void OnRoom() override {}  // AcceptSome comes again and again

  uint32_t listening = 0;
  uint32_t credits = 0;

 private:
  void BindTo(uint32_t channel, const std::shared_ptr<Socket>& socket, const v1::Bind& request,
              const std::string& holder);
  World* const world_;
  Client* const client_;
};

class World {
 public:
  explicit World(const SimulationOptions& options)
      : options_(options), random_(options.seed * 7919 + 13) {}

  SimulationResult Run();

  void Fail(const std::string& why) {
    if (result.failure.empty()) result.failure = absl::StrCat("seed ", options_.seed, ": ", why);
  }
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

  SimulationResult result;
  uint64_t incarnation = 1;
  std::map<std::string, std::shared_ptr<Socket>> sockets;          // by handle
  std::map<std::string, std::shared_ptr<Socket>> planned;          // by request_id, not dialled yet
  std::deque<std::shared_ptr<Socket>> backlog;                     // for Listen
  std::vector<std::pair<Client*, std::function<void()>>> pending;  // answers of the host, later
  absl::Time now = absl::UnixEpoch();

 private:
  friend class SessionHost;
  friend class Client;
  friend class Application;
  friend class Socket;

  Script RandomScript();
  Client* NewClient();
  void Connect(Client* client);
  void Cut(Client* client);
  void StepLink(Client* client);
  void StepFault();
  void RevokeSomewhere();
  void ReplaceClient(Client* client);
  void Steal(Application* victim);
  void KillBroker();
  void AcceptSome();
  bool Finished() const;

  const SimulationOptions options_;
  std::mt19937_64 random_;
  int faults_ = 0;
  uint64_t window_ = 0;
  uint64_t initial_window_ = 0;
  uint64_t flight_ = 0;
  int next_id_ = 1;
  std::vector<std::unique_ptr<Client>> clients_;
};

// --- Socket

absl::Cord Socket::Read(std::size_t max, std::size_t /*retained*/) {
  absl::Cord bytes;
  // It need not be at hand, though it was before: it may lie with another loop.
  if (channel != nullptr && world_->OneIn(4)) {
    slow_ = true;
    return bytes;
  }
  if (!unread_.empty()) {
    const std::size_t size = std::min(max, unread_.size());
    bytes = unread_.Subcord(0, size);
    unread_.RemovePrefix(size);
  } else if (!in_handshake_ && !close_asked_) {
    bytes = absl::Cord(TakeRaw(max));
  }
  read_position.offset += bytes.size();
  return bytes;
}

std::string Socket::TakeRaw(std::size_t max) {
  // Application bytes that the peer has put on the wire; beyond peer_plain raw and application part
  // ways.
  const uint64_t size = std::min<uint64_t>(max, peer_said_ - raw_read_);
  std::string bytes;
  for (uint64_t i = 0; i < size; ++i, ++raw_read_) {
    const bool handshake = script_.tls && raw_read_ >= script_.peer_plain &&
                           raw_read_ < script_.peer_plain + script_.handshake_size;
    if (handshake) {
      bytes.push_back(static_cast<char>('A' + (raw_read_ - script_.peer_plain) % 26));
      // Read as plaintext ahead of the upgrade: it has to be taken back.
    } else {
      // Protected bytes are ciphertext to whoever reads them before the upgrade.
      if (script_.tls && raw_read_ >= script_.peer_plain && !tls_started_) break;
      bytes.push_back(Pattern(id_, 'p', read_index_++));
    }
  }
  return bytes;
}

absl::Status Socket::Write(absl::Cord bytes) {
  if (in_handshake_) world_->Fail("bytes are written while there are no keys yet");
  for (const char byte : bytes.Chars()) {
    if (byte == kPoison) {
      world_->Fail("a fenced client's byte reached the peer");
      return absl::OkStatus();
    }
    if (eof_written_) {
      world_->Fail("bytes behind the client's eof");
      return absl::OkStatus();
    }
    if (byte != Pattern(id_, 'c', written_)) {
      world_->Fail(absl::StrCat("connection ", id_, ": byte ", written_,
                                " of the client's stream is wrong or out of order"));
      return absl::OkStatus();
    }
    if (script_.tls && !tls_started_ && !in_handshake_ && written_ >= script_.client_plain) {
      world_->Fail("a byte that was to be protected went out in clear");
      return absl::OkStatus();
    }
    written_++;
  }
  world_->result.bytes += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

void Socket::WriteEof() {
  if (eof_written_) world_->Fail("eof twice");
  if (written_ != script_.from_client) world_->Fail("eof before the last byte");
  eof_written_ = true;
}

void Socket::StartTls(const v1::SessionStartTls&, absl::Cord taken_back) {
  if (in_handshake_ || tls_started_) return world_->Fail("start_tls twice");
  if (written_ != script_.client_plain) world_->Fail("start_tls at the wrong place of the writes");
  world_->result.upgrades++;
  in_handshake_ = true;
  handshake_ = std::string(unread_);
  unread_.Clear();
  handshake_ = std::string(taken_back) + handshake_;
}

void Socket::ContinueHandshake() {
  while (handshake_.size() < script_.handshake_size && raw_read_ < peer_said_) {
    handshake_.push_back(static_cast<char>('A' + (raw_read_ - script_.peer_plain) % 26));
    raw_read_++;
  }
  if (handshake_.size() < script_.handshake_size || channel == nullptr) return;
  for (std::size_t i = 0; i < handshake_.size(); ++i) {
    if (handshake_[i] != static_cast<char>('A' + i % 26)) {
      return world_->Fail("the handshake did not get exactly its bytes");
    }
  }
  in_handshake_ = false;
  tls_started_ = true;
  marks_.EndUpgrade({});
  channel->OnTlsStarted();
}

void Socket::Unbind(Position read, absl::Cord unread, Position write) {
  if (read.offset + unread.size() != read_position.offset) {
    world_->Fail("what an ended binding gives back does not end where it had read");
  }
  absl::Cord all = std::move(unread);
  all.Append(std::move(unread_));
  unread_ = std::move(all);
  read_position = read;
  write_position = write;
  channel = nullptr;
  session = nullptr;
  if (!claimed) {
    // Back to the queue, and the handle names nothing any more.
    world_->backlog.push_front(shared_from_this());
    world_->sockets.erase(handle);
    handle.clear();
  }
}

bool Socket::Step(std::mt19937_64* random) {
  bool did = false;
  if (slow_ && (*random)() % 4 == 0) {
    slow_ = false;
    if (channel != nullptr && !in_handshake_) channel->OnReadable();
    did = true;
  }
  if (!gone && peer_said_ < RawTotal() && (*random)() % 2 == 0) {
    peer_said_ = std::min(RawTotal(), peer_said_ + 1 + (*random)() % 3000);
    if (channel != nullptr && !in_handshake_) channel->OnReadable();
    did = true;
  }
  if (in_handshake_ && !gone) {
    const bool before = in_handshake_;
    ContinueHandshake();
    did |= before != in_handshake_;
  }
  if (flushed_ < written_ && !gone) {
    flushed_ += 1 + (*random)() % (written_ - flushed_);
    if (channel != nullptr) channel->OnFlushed();
    did = true;
  }
  if (eof_written_ && flushed_ == written_ && !peer_got_eof) {
    peer_got_eof = true;
    did = true;
  }
  // Both directions have ended: the connection may go, though its client has not read everything.
  const bool ended = peer_got_eof && peer_said_ == RawTotal() && (!script_.tls || tls_started_);
  if (ended && !gone && (*random)() % 4 == 0) {
    Finish();
    did = true;
  }
  if (close_asked_ && !gone && flushed_ == written_) {
    Finish();
    did = true;
  }
  return did;
}

void Socket::Finish() {
  if (std::exchange(gone, true)) return;
  if (channel != nullptr) channel->OnGone({});
}

// --- SessionHost

void SessionHost::Open(v1::Open request) {
  world_->pending.emplace_back(client_, [this, request] {
    const std::string& id = request.tcp().request_id();
    for (const auto& [handle, socket] : world_->sockets) {
      if (socket->request_id != id) continue;
      v1::Bind bind;
      bind.mutable_read();
      bind.set_attempt(socket->attempt);
      return BindTo(request.channel(), socket, bind, client_->holder());
    }
    const auto planned = world_->planned.find(id);
    if (planned == world_->planned.end()) {
      google::rpc::Status status;
      status.set_message("refused");
      return client_->broker->Failed(request.channel(), status);
    }
    const std::shared_ptr<Socket> socket = planned->second;
    world_->planned.erase(planned);
    socket->handle = absl::StrCat("handle", socket->id(), ".", world_->incarnation);
    socket->holder = client_->holder();
    socket->epoch = 1;
    world_->sockets[socket->handle] = socket;
    BrokerSession::Binding binding;
    binding.connection = socket;
    binding.info.set_handle(socket->handle);
    binding.epoch = 1;
    binding.window = world_->window_;
    socket->session = client_->broker.get();
    socket->channel = client_->broker->Opened(request.channel(), std::move(binding));
    if (socket->channel == nullptr && socket->session != nullptr) socket->session = nullptr;
  });
}

void SessionHost::Bind(v1::Bind request, const std::string& holder) {
  world_->pending.emplace_back(client_, [this, request, holder] {
    google::rpc::Status status;
    const auto found = world_->sockets.find(request.handle());
    if (found == world_->sockets.end()) {
      status.set_message("no such handle");
      return client_->broker->Failed(request.channel(), status);
    }
    const std::shared_ptr<Socket> socket = found->second;
    if (socket->channel != nullptr && socket->holder != holder && !request.steal()) {
      status.set_message("bound");
      return client_->broker->Failed(request.channel(), status);
    }
    if (socket->holder == holder ? request.attempt() < socket->attempt : request.epoch() != 0) {
      status.set_message("stale");
      return client_->broker->Failed(request.channel(), status);
    }
    BindTo(request.channel(), socket, request, holder);
  });
}

void SessionHost::BindTo(uint32_t channel, const std::shared_ptr<Socket>& socket,
                         const v1::Bind& request, const std::string& holder) {
  socket->epoch++;
  if (socket->channel != nullptr) socket->channel->Fence(socket->epoch);
  if (socket->holder != holder) socket->attempt = 0;
  socket->holder = holder;
  socket->attempt = std::max(socket->attempt, request.attempt());
  Position read = socket->read_position;
  if (request.has_read()) {
    Position wanted{request.read().offset(), request.read().marks()};
    const ReadMarkLog& log = socket->read_marks();
    if (wanted.offset >= log.void_from && wanted.offset < log.void_to) wanted.offset = log.void_to;
    if (wanted.offset < read.offset || wanted.marks < read.marks) {
      return world_->Fail(absl::StrCat("connection ", socket->id(), ": ", holder, " asks for ",
                                       wanted.offset, ".", wanted.marks, ", but has acked ",
                                       read.offset, ".", read.marks));
    }
    // What the client has already is skipped.
    absl::Cord skipped = socket->Read(wanted.offset - read.offset, 0);
    if (skipped.size() != wanted.offset - read.offset) {
      return world_->Fail("a client claims bytes that were never read");
    }
    read = wanted;
    socket->read_position = read;
  }
  BrokerSession::Binding binding;
  binding.connection = socket;
  binding.info.set_handle(socket->handle);
  binding.epoch = socket->epoch;
  binding.read = read;
  binding.write = socket->write_position;
  binding.window = world_->window_;
  socket->session = client_->broker.get();
  socket->channel = client_->broker->Bound(channel, std::move(binding));
  if (socket->gone && socket->channel != nullptr) socket->channel->OnGone({});
}

void SessionHost::Listen(v1::Listen request) {
  listening = request.channel();
  credits += request.credits();
}

void World::AcceptSome() {
  for (auto& client : clients_) {
    auto* host = static_cast<SessionHost*>(client->host.get());
    if (!client->up || host->listening == 0 || host->credits == 0 || backlog.empty()) continue;
    const std::shared_ptr<Socket> socket = backlog.front();
    backlog.pop_front();
    host->credits--;
    socket->handle = absl::StrCat("accepted", socket->id(), ".", ++next_id_);
    for (auto it = sockets.begin(); it != sockets.end();) {
      it = it->second == socket ? sockets.erase(it) : std::next(it);
    }
    sockets[socket->handle] = socket;
    socket->claimed = false;
    socket->holder = client->holder();
    socket->epoch++;
    result.accepts++;
    BrokerSession::Binding binding;
    binding.connection = socket;
    binding.info.set_handle(socket->handle);
    binding.epoch = socket->epoch;
    binding.window = window_;
    socket->session = client->broker.get();
    socket->channel = client->broker->Accepted(host->listening, std::move(binding));
    if (socket->channel == nullptr) {
      socket->session = nullptr;
      backlog.push_front(socket);
    }
    return;
  }
}

// --- the client's applications

ClientListener* Client::OnAccepted(ClientChannel* channel, const v1::Connection& connection) {
  const std::shared_ptr<Socket> socket = world_->sockets.at(connection.handle());
  applications.push_back(std::make_unique<Application>(world_, this, socket));
  applications.back()->channel = channel;
  applications.back()->bound_ = true;
  return applications.back().get();
}

void Application::OnEof() {
  if (eof_seen_) world_->Fail("the peer's eof is told twice");
  eof_seen_ = true;
  const Script& script = socket_->script();
  if (consumed_ + received_.size() != script.from_peer) {
    world_->Fail(absl::StrCat("connection ", socket_->id(), ": eof after ",
                              consumed_ + received_.size(), " of ", script.from_peer, " bytes; ",
                              Describe()));
  }
}

void Application::OnClosed(const v1::Closed&) {
  if (!closed_ && !(eof_seen_ && eof_written_)) world_->Fail("closed, but nobody asked for it");
  if (!received_.empty()) world_->Fail("closed in front of data");
  if (consumed_ != socket_->script().from_peer) world_->Fail("closed before everything was read");
  if (!socket_->peer_got_eof) world_->Fail("closed before the peer had everything");
  done = true;
}

void Application::OnFailed(const google::rpc::Status& status) {
  // A handle that was given back, or a connection that another has: only after a fault of the
  // world's making.
  if (status.message() != "no such handle" && status.message() != "bound" &&
      status.message() != "stale") {
    world_->Fail(absl::StrCat("connection ", socket_->id(), " failed: ", status.message()));
  } else if (!poisoned && world_->incarnation == 1 && channel->handle() == socket_->handle) {
    // (An accepted connection whose claim was lost with the link is somebody else's by now.)
    world_->Fail(absl::StrCat("connection ", socket_->id(), ": ", status.message()));
  }
  done = true;
}

void Application::OnDetached() { done = true; }

void Application::OnFenced(uint64_t) {
  if (!poisoned) world_->Fail("fenced without a steal");
  done = true;
}

void Application::OnLost(const v1::Offsets& last) {
  if (last.write_offset() < last.flushed()) world_->Fail("more flushed than taken");
  world_->result.lost++;
  done = true;
}

bool Application::Step(std::mt19937_64* random) {
  if (done || channel == nullptr) return false;
  if (poisoned) {
    // It does not know yet that it was fenced, and goes on talking.
    if ((*random)() % 8 == 0)
      channel->Write(absl::Cord(std::string(1 + (*random)() % 50, kPoison)));
    return false;
  }
  const Script& script = socket_->script();
  bool did = false;
  // Read: up to the point where TLS must begin.
  uint64_t may_consume = received_.size();
  if (script.tls && !tls_) {
    may_consume =
        std::min<uint64_t>(may_consume, script.peer_plain - std::min(consumed_, script.peer_plain));
  }
  if (may_consume > 0) {
    const uint64_t size = 1 + (*random)() % may_consume;
    if (received_.substr(0, size) != PatternRange(socket_->id(), 'p', consumed_, size)) {
      world_->Fail(absl::StrCat("connection ", socket_->id(), ": the client read wrong bytes at ",
                                consumed_));
      return false;
    }
    received_.erase(0, size);
    consumed_ += size;
    world_->result.bytes += static_cast<int64_t>(size);
    channel->Consume(size);
    if (done) return true;
    did = true;
  }
  // A process that took over says nothing before it knows where the stream stands.
  if (!bound_ && written_ == 0 && channel->epoch() == 0 && !channel->handle().empty()) return did;
  uint64_t until = script.from_client;
  if (script.tls && !tls_asked_) until = script.client_plain;
  if (written_ < until && channel->unacked() < 20'000) {
    const uint64_t size = 1 + (*random)() % std::min<uint64_t>(until - written_, 5000);
    channel->Write(absl::Cord(PatternRange(socket_->id(), 'c', written_, size)));
    written_ += size;
    did = true;
  }
  if (script.tls && !tls_asked_ && written_ == script.client_plain &&
      consumed_ == script.peer_plain) {
    tls_asked_ = true;
    received_.clear();
    channel->StartTls({}, v1::StartTlsRequest::CLIENT);
    did = true;
  }
  if (written_ == script.from_client && !eof_written_ && (!script.tls || tls_asked_)) {
    eof_written_ = true;
    channel->WriteEof();
    did = true;
  }
  if (eof_written_ && eof_seen_ && received_.empty() && !closed_) {
    closed_ = true;
    channel->Close();
    did = true;
  }
  return did;
}

std::string Application::Describe() const {
  const Script& script = socket_->script();
  return absl::StrCat(
      "connection ", socket_->id(), ": bound=", channel->bound(), " consumed ", consumed_, "/",
      script.from_peer, " waiting ", received_.size(), " eof_seen=", eof_seen_, " written ",
      written_, "/", script.from_client, " taken ", channel->out.taken().offset, ".",
      channel->out.taken().marks, " end ", channel->out.end().offset, ".", channel->out.end().marks,
      " edge ", channel->out.edge(), " tls=", script.tls, tls_asked_, tls_, " closed=", closed_,
      " poisoned=", poisoned, " in ", channel->in.received().offset, ".",
      channel->in.received().marks, " consumed ", channel->in.consumed().offset, " edge ",
      channel->in.edge(), "; the socket: gone=", socket_->gone,
      " bound=", socket_->channel != nullptr, " flushed ", socket_->Flushed());
}

// --- World

Script World::RandomScript() {
  Script script;
  script.from_peer = Below(30'000);
  script.from_client = Below(30'000);
  if (OneIn(3)) {
    script.tls = true;
    script.peer_plain = Below(2'000);
    script.client_plain = Below(2'000);
    script.handshake_size = 1 + Below(300);
    script.from_peer += script.peer_plain;
    script.from_client += script.client_plain;
  }
  return script;
}

Client* World::NewClient() {
  std::string holder = absl::StrCat("holder", ++next_id_);
  holder.resize(16, '-');
  clients_.push_back(std::make_unique<Client>(this, holder, 1024 + Below(8) * 4096, flight_));
  return clients_.back().get();
}

void World::Connect(Client* client) {
  client->up = true;
  client->host = std::make_unique<SessionHost>(this, client);
  BrokerSession::Options options;
  options.incarnation = incarnation;
  options.initial_window = initial_window_;
  options.flight = flight_;
  client->broker = std::make_unique<BrokerSession>(options, client->host.get());
  client->session.OnLinkUp();
}

void World::Cut(Client* client) {
  client->up = false;
  client->to_broker.clear();
  client->to_client.clear();
  std::erase_if(pending, [&](const auto& answer) { return answer.first == client; });
  client->broker->OnLinkDown();
  client->session.OnLinkDown();
}

void World::StepLink(Client* client) {
  if (!client->up) {
    if (OneIn(3)) Connect(client);
    return;
  }
  switch (Below(4)) {
    case 0:
      if (OneIn(8)) client->session.AckPending();
      if (client->session.HasOutput() && client->to_broker.size() < 4) {
        absl::Cord message = client->session.NextBatch(now);
        if (!message.empty()) client->to_broker.push_back(std::move(message));
      }
      break;
    case 1:
      if (OneIn(8)) client->broker->AckPending();
      if (client->broker->HasOutput() && client->to_client.size() < 4) {
        absl::Cord message = client->broker->NextBatch(now);
        if (!message.empty()) client->to_client.push_back(std::move(message));
      }
      break;
    case 2:
      if (!client->to_broker.empty()) {
        const absl::Status status = client->broker->OnMessage(client->to_broker.front(), now);
        if (!status.ok()) Fail(absl::StrCat("the broker refuses: ", status.ToString()));
        client->to_broker.pop_front();
      }
      break;
    default:
      if (!client->to_client.empty()) {
        const absl::Status status = client->session.OnMessage(client->to_client.front(), now);
        if (!status.ok()) Fail(absl::StrCat("the client refuses: ", status.ToString()));
        client->to_client.pop_front();
      }
      break;
  }
}

// Another process takes all over from one that was killed: it knows the handles, and how far it has
// consumed.
void World::ReplaceClient(Client* client) {
  if (client->up) Cut(client);
  Client* heir = NewClient();
  for (auto& application : client->applications) {
    if (application->done || application->poisoned) continue;
    // In the middle of an upgrade there is nothing that another process could know; nor of what was
    // never answered.
    if (application->socket_->script().tls || application->channel->handle().empty()) {
      application->done = true;
      continue;
    }
    heir->applications.push_back(std::make_unique<Application>(this, heir, application->socket_));
    Application* next = heir->applications.back().get();
    next->consumed_ = application->consumed_;
    const Position read{application->consumed_, application->channel->in.consumed().marks};
    next->eof_seen_ = read.marks > 0;
    next->channel = heir->session.Bind(application->channel->handle(), /*steal=*/true, read, next);
    // What the broker has of the old one's eof and close is the broker's to say.
    next->eof_written_ = false;
    application->done = true;
  }
  heir->session.Listen("server", 40, heir);
  // The dead process is dead.
  for (auto& application : client->applications) application->done = true;
  std::erase_if(clients_, [&](const auto& c) { return c.get() == client; });
  result.replaced++;
}

void World::Steal(Application* victim) {
  const std::shared_ptr<Socket> socket = victim->socket_;
  if (victim->done || victim->poisoned || socket->script().tls || !victim->bound_ ||
      victim->channel->handle().empty() || socket->channel == nullptr || victim->eof_written_) {
    return;
  }
  Client* thief = NewClient();
  thief->applications.push_back(std::make_unique<Application>(this, thief, socket));
  Application* next = thief->applications.back().get();
  // The two have agreed on what was consumed; everything the victim says from now on must not
  // arrive. What it has said already may.
  next->consumed_ = victim->consumed_;
  next->channel =
      thief->session.Bind(victim->channel->handle(), /*steal=*/true,
                          Position{victim->consumed_, victim->channel->in.consumed().marks}, next);
  next->eof_seen_ = victim->channel->in.consumed().marks > 0;
  // Its link breaks at this moment, or it is suspended: either way its poison is sent after the
  // steal.
  victim->poisoned = true;
  Cut(victim->client_);
  Connect(thief);
  // The steal goes first.
  for (int i = 0; i < 10'000 && !next->bound_ && !next->done; ++i) {
    StepLink(thief);
    while (!pending.empty()) {
      auto answer = std::move(pending.front());
      pending.erase(pending.begin());
      answer.second();
    }
  }
  result.steals++;
}

void World::KillBroker() {
  for (auto& client : clients_) {
    if (client->up) Cut(client.get());
  }
  incarnation++;
  sockets.clear();
  backlog.clear();
}

void World::StepFault() {
  if (faults_ >= options_.faults || clients_.empty()) return;
  Client* client = clients_[Below(clients_.size())].get();
  switch (Below(options_.broker_may_die ? 12 : 11)) {
    case 0:
      faults_++;
      ReplaceClient(client);
      break;
    case 1:
      if (!client->applications.empty()) {
        faults_++;
        Steal(client->applications[Below(client->applications.size())].get());
      }
      break;
    case 11:
      faults_ += 4;
      KillBroker();
      break;
    default:
      if (client->up) {
        faults_++;
        result.cuts++;
        Cut(client);
      }
      break;
  }
}

void SessionHost::ShrinkWindow(BrokerConnection*, uint64_t) { world_->result.revoked++; }

void World::RevokeSomewhere() {
  if (clients_.empty()) return;
  Client* client = clients_[Below(clients_.size())].get();
  // As if all of them had long been larger than they need be.
  if (client->up) client->broker->RevokeUnused(256 + Below(4096), now + absl::Hours(1));
}

bool World::Finished() const {
  if (!backlog.empty()) return false;
  for (const auto& client : clients_) {
    if (!client->finished()) return false;
  }
  return true;
}

SimulationResult World::Run() {
  window_ = 512 + Below(16) * 2048;
  initial_window_ = Below(3) == 0 ? 64 * 1024 : 256 + Below(4096);
  flight_ = OneIn(2) ? Flight::kLeast : 300 + Below(4096);
  // The broker reserves what it promises a client that does not wait for its answer.
  window_ = std::max(window_, initial_window_);
  Client* client = NewClient();
  for (int i = 0; i < options_.connections; ++i) {
    auto socket = std::make_shared<Socket>(this, i + 1, RandomScript());
    if (OneIn(4)) {
      backlog.push_back(socket);
      continue;
    }
    socket->request_id = absl::StrCat("request", i);
    planned[socket->request_id] = socket;
    client->applications.push_back(std::make_unique<Application>(this, client, socket));
    Application* application = client->applications.back().get();
    v1::OpenConnectionRequest request;
    request.set_request_id(socket->request_id);
    application->channel = client->session.Open(std::move(request), application);
  }
  if (!backlog.empty()) {
    client->session.Listen("server", static_cast<uint32_t>(backlog.size()) + 40, client);
  }
  int64_t steps = 0;
  while (result.failure.empty() && !Finished()) {
    if (++steps > 3'000'000) {
      std::string state;
      for (const auto& some : clients_) {
        absl::StrAppend(&state, "\nclient up=", some->up, " output=", some->session.HasOutput(),
                        " broker output=", some->up && some->broker->HasOutput());
        for (const auto& application : some->applications) {
          if (!application->done) absl::StrAppend(&state, "\n  ", application->Describe());
        }
      }
      Fail(absl::StrCat("no progress; backlog ", backlog.size(), state));
      break;
    }
    now += absl::Microseconds(50);
    const uint64_t what = Below(100);
    if (what < 60) {
      if (!clients_.empty()) StepLink(clients_[Below(clients_.size())].get());
    } else if (what < 75) {
      if (!clients_.empty()) {
        Client* some = clients_[Below(clients_.size())].get();
        if (!some->applications.empty()) {
          some->applications[Below(some->applications.size())]->Step(&random_);
        }
      }
    } else if (what < 95) {
      if (!sockets.empty()) {
        auto it = sockets.begin();
        std::advance(it, static_cast<int64_t>(Below(sockets.size())));
        const std::shared_ptr<Socket> socket = it->second;
        socket->Step(&random_);
      }
    } else if (what < 98) {
      if (!pending.empty()) {
        const std::size_t i = Below(pending.size());
        auto answer = std::move(pending[i]);
        pending.erase(pending.begin() + static_cast<int64_t>(i));
        answer.second();
      }
      AcceptSome();
    } else if (OneIn(30)) {
      StepFault();
    } else if (OneIn(4)) {
      RevokeSomewhere();
    }
  }
  for (auto& some : clients_) {
    if (some->up) Cut(some.get());
  }
  return result;
}

}  // namespace

SimulationResult RunSimulation(const SimulationOptions& options) { return World(options).Run(); }

}  // namespace sockbroker::session
