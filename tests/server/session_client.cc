#include "tests/server/session_client.h"

#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <deque>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "transport/byte_buffer.h"

namespace sockbroker::server {
namespace {

std::string RandomBytes(std::size_t size) {
  std::random_device random;
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

}  // namespace

// One stream. gRPC's threads take the client's lock for whatever they do.
struct SessionClient::Link : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                             std::enable_shared_from_this<Link> {
  explicit Link(SessionClient* c) : client(c), stub(c->channel_) {}

  void Start() {
    self = shared_from_this();
    stub.PrepareBidiStreamingCall(&context, kSessionMethod, {}, this);
    AddHold();
    StartRead(&received);
    StartCall();
  }
  void Send() {
    if (writing || down || !client->session_.HasOutput()) return;
    const absl::Cord batch = client->session_.NextBatch(absl::Now());
    if (batch.empty()) return;
    sending = ToByteBuffer(batch);
    writing = true;
    StartWrite(&sending);
  }
  void OnReadDone(bool ok) override {
    const std::lock_guard lock(client->mutex_);
    if (!ok) return Down();
    messages.push_back(ToCord(received));
    received.Clear();
    Process();
    StartRead(&received);
  }
  void Process() {
    while (!messages.empty() && !client->held_ && !down) {
      const absl::Cord message = std::move(messages.front());
      messages.pop_front();
      const absl::Status status = client->session_.OnMessage(message, absl::Now());
      if (!status.ok()) ADD_FAILURE() << status;
      Send();
    }
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(client->mutex_);
    if (!ok) return;  // the end comes behind what is still to be read
    writing = false;
    Send();
  }
  void Down() {
    if (std::exchange(down, true)) return;
    if (client->link_.get() == this) client->session_.OnLinkDown();
    RemoveHold();
  }
  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(client->mutex_);
    Down();
    client->ended_ = status;
    done = true;
    const std::shared_ptr<Link> keep = std::move(self);
  }

  SessionClient* const client;
  grpc::GenericStub stub;
  grpc::ClientContext context;
  grpc::ByteBuffer received;
  grpc::ByteBuffer sending;
  std::deque<absl::Cord> messages;
  bool writing = false;
  bool down = false;
  bool done = false;
  std::shared_ptr<Link> self;
};

SessionClient::SessionClient(std::shared_ptr<grpc::Channel> channel, std::string holder,
                             uint64_t window)
    : channel_(std::move(channel)), session_(holder.empty() ? RandomBytes(16) : holder, window) {
  session_.set_on_output([this] { Flush(); });
  Connect();
}

SessionClient::~SessionClient() { Cut(); }

void SessionClient::Flush() {
  if (link_ != nullptr) link_->Send();
}

void SessionClient::Connect() {
  const std::lock_guard lock(mutex_);
  ended_.reset();
  link_ = std::make_shared<Link>(this);
  link_->Start();
  session_.OnLinkUp();
}

void SessionClient::Cut() {
  std::shared_ptr<Link> link;
  {
    const std::lock_guard lock(mutex_);
    if (link_ == nullptr) return;
    link = link_;
    link->Down();
    link->context.TryCancel();
  }
  Wait("the stream ends", [&] { return link->done; });
  const std::lock_guard lock(mutex_);
  link_.reset();
}

void SessionClient::Hold(bool held) {
  const std::lock_guard lock(mutex_);
  held_ = held;
  if (link_ != nullptr) link_->Process();
}

void SessionClient::Wait(const char* what, const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (condition()) return;
      session_.AckPending();
    }
    if (absl::Now() > deadline) {
      FAIL() << "waited in vain until " << what;
    }
    std::this_thread::yield();
  }
}

std::shared_ptr<TestChannel> SessionClient::Open(uint16_t port, const std::string& request_id,
                                                 const std::string& host) {
  const std::lock_guard lock(mutex_);
  auto channel = std::make_shared<TestChannel>(this);
  v1::OpenConnectionRequest request;
  request.set_host(host);
  request.set_port(port);
  request.set_request_id(request_id.empty() ? RandomBytes(16) : request_id);
  channel->channel_ = session_.Open(request, channel.get());
  channels_.push_back(channel);
  return channel;
}

std::shared_ptr<TestChannel> SessionClient::Bind(const std::string& handle, bool steal,
                                                 std::optional<session::Position> read) {
  const std::lock_guard lock(mutex_);
  auto channel = std::make_shared<TestChannel>(this);
  channel->channel_ = session_.Bind(handle, steal, read, channel.get());
  channels_.push_back(channel);
  return channel;
}

uint32_t SessionClient::Listen(const std::string& server, uint32_t credits) {
  const std::lock_guard lock(mutex_);
  return session_.Listen(server, credits, this);
}

void SessionClient::StopListening(uint32_t id) {
  const std::lock_guard lock(mutex_);
  session_.StopListening(id);
}

session::ClientListener* SessionClient::OnAccepted(session::ClientChannel* channel,
                                                   const v1::Connection& connection) {
  auto accepted = std::make_shared<TestChannel>(this);
  accepted->channel_ = channel;
  accepted->OnBound(connection, channel->epoch());
  channels_.push_back(accepted);
  accepted_.push_back(accepted);
  return accepted.get();
}

std::shared_ptr<TestChannel> SessionClient::WaitAccepted() {
  std::shared_ptr<TestChannel> channel;
  Wait("a connection was accepted", [&] {
    if (accepted_.empty()) return false;
    channel = accepted_.front();
    accepted_.erase(accepted_.begin());
    return true;
  });
  return channel;
}

google::rpc::Status SessionClient::WaitListenFailed() {
  Wait("listening has failed", [&] { return listen_failed_.has_value(); });
  return listen_failed_.value_or(google::rpc::Status());
}

bool SessionClient::going_away() {
  const std::lock_guard lock(mutex_);
  return session_.going_away();
}

void SessionClient::SendRaw(const v1::ClientFrames& frames) {
  Wait("the link is free", [&] { return link_ != nullptr && !link_->writing; });
  const std::lock_guard lock(mutex_);
  link_->sending = ToByteBuffer(absl::Cord(frames.SerializeAsString()));
  link_->writing = true;
  link_->StartWrite(&link_->sending);
}

grpc::Status SessionClient::WaitEnd() {
  Wait("the session ends", [&] { return ended_.has_value(); });
  return ended_.value_or(grpc::Status());
}

// --- TestChannel

void TestChannel::Wait(const char* what, const std::function<bool()>& condition) {
  client_->Wait(what, condition);
}

#define LOCKED const std::lock_guard lock(client_->mutex_)

void TestChannel::Write(absl::string_view data) {
  LOCKED;
  if (channel_ != nullptr) channel_->Write(absl::Cord(data));
}
void TestChannel::WriteEof() {
  LOCKED;
  if (channel_ != nullptr) channel_->WriteEof();
}
void TestChannel::StartTls(const v1::TlsOptions& options) {
  LOCKED;
  data_.clear();
  channel_->StartTls(options, v1::StartTlsRequest::CLIENT);
}
void TestChannel::Close() {
  LOCKED;
  if (channel_ != nullptr) channel_->Close();
}
void TestChannel::Abort() {
  LOCKED;
  if (channel_ != nullptr) channel_->Abort();
}
void TestChannel::Detach() {
  LOCKED;
  if (channel_ != nullptr) channel_->Detach();
}

std::string TestChannel::Take(std::size_t size) {
  std::string taken = data_.substr(0, size);
  data_.erase(0, size);
  // It may end the channel.
  if (channel_ != nullptr) channel_->Consume(taken.size());
  return taken;
}

std::string TestChannel::Receive(std::size_t size) {
  std::string all;
  Wait("so many bytes came", [&] {
    all += Take(size - all.size());
    return all.size() == size;
  });
  return all;
}

std::string TestChannel::ReceiveAll() {
  std::string all;
  Wait("the peer's end came", [&] {
    all += Take(data_.size());
    return eof_ || closed_.has_value();
  });
  return all;
}

std::string TestChannel::Waiting() {
  LOCKED;
  return data_;
}

std::string TestChannel::TakeSome() {
  LOCKED;
  client_->session_.AckPending();
  return Take(data_.size());
}

void TestChannel::WaitBound() {
  Wait("it is bound", [&] { return bound_ > bound_seen_; });
  bound_seen_++;
}
void TestChannel::WaitEof() {
  Wait("the peer's EOF", [&] { return eof_; });
}
void TestChannel::WaitTls() {
  Wait("TLS has started", [&] { return tls_; });
}
void TestChannel::WaitFlushed(uint64_t offset) {
  Wait("the kernel has it",
       [&] { return channel_ == nullptr || channel_->broker_flushed() >= offset; });
}
void TestChannel::WaitWriteClosed() {
  Wait("the peer takes no more", [&] { return write_closed_; });
}
v1::Closed TestChannel::WaitClosed() {
  Wait("it is closed", [&] {
    Take(data_.size());
    return closed_.has_value();
  });
  return closed_.value_or(v1::Closed());
}
google::rpc::Status TestChannel::WaitFailed() {
  Wait("it has failed", [&] { return failed_.has_value(); });
  return failed_.value_or(google::rpc::Status());
}
void TestChannel::WaitDetached() {
  Wait("it is detached", [&] { return detached_; });
}
uint64_t TestChannel::WaitFenced() {
  Wait("it is fenced", [&] { return fenced_.has_value(); });
  return fenced_.value_or(0);
}
v1::Offsets TestChannel::WaitLost() {
  Wait("it is lost", [&] { return lost_.has_value(); });
  return lost_.value_or(v1::Offsets());
}
bool TestChannel::ended() {
  LOCKED;
  return channel_ == nullptr;
}
std::string TestChannel::handle() {
  LOCKED;
  return handle_;
}
uint64_t TestChannel::epoch() {
  LOCKED;
  return epoch_;
}
uint64_t TestChannel::unacked() {
  LOCKED;
  return channel_ == nullptr ? 0 : channel_->unacked();
}
uint64_t TestChannel::edge() {
  LOCKED;
  return channel_ == nullptr ? 0 : channel_->edge();
}
v1::Connection TestChannel::connection() {
  LOCKED;
  return connection_;
}

void TestChannel::OnBound(const v1::Connection& connection, uint64_t epoch) {
  connection_ = connection;
  handle_ = connection.handle();
  epoch_ = epoch;
  bound_++;
}
void TestChannel::OnClosed(const v1::Closed& closed) {
  channel_ = nullptr;
  closed_ = closed;
}
void TestChannel::OnFailed(const google::rpc::Status& status) {
  channel_ = nullptr;
  failed_ = status;
}
void TestChannel::OnDetached() {
  channel_ = nullptr;
  detached_ = true;
}
void TestChannel::OnFenced(uint64_t epoch) {
  channel_ = nullptr;
  fenced_ = epoch;
}
void TestChannel::OnLost(const v1::Offsets& last_known) {
  channel_ = nullptr;
  lost_ = last_known;
}

}  // namespace sockbroker::server
