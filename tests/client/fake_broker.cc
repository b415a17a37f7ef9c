#include "tests/client/fake_broker.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/error_text.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace sockbroker::client {
namespace {

grpc::Status Failure(grpc::StatusCode code, v1::Reason reason, uint64_t write_offset = 0) {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  detail.mutable_offsets()->set_write_offset(write_offset);
  return MakeStatus(code, v1::Reason_Name(reason), detail);
}

grpc::Status EndedByPeer() {
  v1::ErrorDetail detail;
  detail.set_reason(v1::CLOSED);
  detail.set_close_reason(v1::ENDED_BY_PEER);
  return MakeStatus(grpc::StatusCode::FAILED_PRECONDITION, "the connection is closed", detail);
}

}  // namespace

FakeBroker::FakeBroker() {
  char name[] = "/tmp/sb-fake-XXXXXX";
  directory_ = mkdtemp(name);
  path_ = directory_ + "/broker.sock";
  Start();
}

FakeBroker::~FakeBroker() {
  Stop();
  (void)unlink(path_.c_str());
  (void)rmdir(directory_.c_str());
}

void FakeBroker::Start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + path_, grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

void FakeBroker::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void FakeBroker::BreakLink() {
  Stop();
  Start();
}

v1::Connection FakeBroker::connection() const {
  v1::Connection connection;
  connection.set_handle(std::string(32, 'h'));
  connection.set_state(v1::CONNECTION_STATE_OPEN);
  return connection;
}

void FakeBroker::PeerSends(const std::string& bytes) {
  absl::MutexLock lock(&mutex_);
  incoming_ += bytes;
}

void FakeBroker::PeerEnds() {
  absl::MutexLock lock(&mutex_);
  peer_ended_ = true;
}

void FakeBroker::PeerEndsBoth() {
  absl::MutexLock lock(&mutex_);
  peer_ended_ = ended_both_ = true;
}

void FakeBroker::PeerResets() {
  absl::MutexLock lock(&mutex_);
  reset_ = true;
}

void FakeBroker::PeerTakesNoMore() {
  absl::MutexLock lock(&mutex_);
  takes_no_more_ = true;
}

std::string FakeBroker::PeerReceived() const {
  absl::MutexLock lock(&mutex_);
  return outgoing_;
}

void FakeBroker::WaitUntilPeerReceived(std::size_t size) const {
  const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return outgoing_.size() >= size;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&enough));
}

void FakeBroker::WaitUntilPeerSawEof() const {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&eof_sent_));
}

bool FakeBroker::PeerSawEof() const {
  absl::MutexLock lock(&mutex_);
  return eof_sent_;
}

uint64_t FakeBroker::kept() const {
  absl::MutexLock lock(&mutex_);
  return kept_;
}

bool FakeBroker::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

int FakeBroker::calls(const std::string& method) const {
  absl::MutexLock lock(&mutex_);
  return faults_[method].calls;
}

void FakeBroker::WaitUntilCalled(const std::string& method, int times) const {
  const auto called = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return faults_[method].calls >= times;
  };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&called));
}

void FakeBroker::LoseReplies(const std::string& method, int times) {
  absl::MutexLock lock(&mutex_);
  faults_[method].lose += times;
}

void FakeBroker::RefuseCalls(const std::string& method, int times) {
  absl::MutexLock lock(&mutex_);
  faults_[method].refuse += times;
}

grpc::Status FakeBroker::Begin(const std::string& method) {
  absl::MutexLock lock(&mutex_);
  Faults& faults = faults_[method];
  ++faults.calls;
  if (faults.refuse == 0) return grpc::Status::OK;
  --faults.refuse;
  return {grpc::StatusCode::UNAVAILABLE, "refused by the fake"};
}

grpc::Status FakeBroker::End(const std::string& method) {
  absl::MutexLock lock(&mutex_);
  Faults& faults = faults_[method];
  if (faults.lose == 0) return grpc::Status::OK;
  --faults.lose;
  return {grpc::StatusCode::UNAVAILABLE, "lost by the fake"};
}

bool FakeBroker::Await(grpc::ServerContext* context, const absl::Condition& condition) {
  // gRPC tells nobody that a caller has gone: ask.
  while (!mutex_.AwaitWithTimeout(condition, absl::Milliseconds(5))) {
    if (context->IsCancelled()) return false;
  }
  return true;
}

grpc::Status FakeBroker::Read(grpc::ServerContext* context, const v1::ReadRequest* request,
                              v1::ReadResponse* response) {
  grpc::Status status = Begin("Read");
  if (!status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    if (request->offset() < kept_ || request->offset() > read_) {
      return Failure(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE);
    }
    // What lies below has arrived.
    kept_ = request->offset();
    const int turn = ++read_turn_;
    const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return turn != read_turn_ || incoming_.size() > request->offset() || peer_ended_ || reset_ ||
             closed_;
    };
    if (!Await(context, absl::Condition(&ready))) return grpc::Status::CANCELLED;
    if (turn != read_turn_) return Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::SUPERSEDED);
    const std::string data =
        incoming_.substr(request->offset(), static_cast<std::size_t>(request->n()));
    if (data.empty() && reset_) {
      return Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::CONNECTION_RESET);
    }
    if (data.empty() && closed_) return Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::CLOSED);
    response->set_offset(request->offset());
    response->set_data(data);
    read_ = std::max<uint64_t>(read_, request->offset() + data.size());
    response->set_eof(peer_ended_ && read_ == incoming_.size());
  }
  return End("Read");
}

grpc::Status FakeBroker::Write(grpc::ServerContext* /*context*/, const v1::WriteRequest* request,
                               v1::WriteResponse* response) {
  grpc::Status status = Begin("Write");
  if (!status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_both_) return EndedByPeer();
    if (takes_no_more_ || reset_) {
      return Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::CLOSED, outgoing_.size());
    }
    if (eof_sent_) return Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::WRITE_AFTER_EOF);
    if (!request->has_offset() || request->offset() > outgoing_.size()) {
      return Failure(grpc::StatusCode::OUT_OF_RANGE, v1::OFFSET_OUT_OF_RANGE, outgoing_.size());
    }
    if (request->offset() < outgoing_.size() && request->writer() != writer_) {
      return Failure(grpc::StatusCode::ABORTED, v1::OTHER_WRITER, outgoing_.size());
    }
    writer_ = request->writer();
    const std::size_t known = outgoing_.size() - request->offset();
    if (known < request->data().size()) outgoing_.append(request->data(), known);
    response->set_write_offset(outgoing_.size());
    response->set_flushed(outgoing_.size());
  }
  return End("Write");
}

grpc::Status FakeBroker::WriteEof(grpc::ServerContext* /*context*/,
                                  const v1::WriteEofRequest* /*request*/,
                                  v1::WriteEofResponse* response) {
  grpc::Status status = Begin("WriteEof");
  if (!status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_both_) return EndedByPeer();
    eof_sent_ = true;
    response->set_write_offset(outgoing_.size());
  }
  return End("WriteEof");
}

grpc::Status FakeBroker::Close(grpc::ServerContext* /*context*/,
                               const v1::CloseRequest* /*request*/,
                               v1::CloseResponse* /*response*/) {
  grpc::Status status = Begin("Close");
  if (!status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  return End("Close");
}

grpc::Status FakeBroker::WaitClosed(grpc::ServerContext* context,
                                    const v1::WaitClosedRequest* /*request*/,
                                    v1::WaitClosedResponse* response) {
  grpc::Status status = Begin("WaitClosed");
  if (!status.ok()) return status;
  absl::MutexLock lock(&mutex_);
  const auto gone = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closed_ || reset_ || ended_both_;
  };
  if (!Await(context, absl::Condition(&gone))) return grpc::Status::CANCELLED;
  if (ended_both_) response->mutable_connection()->set_close_reason(v1::ENDED_BY_PEER);
  return reset_ ? Failure(grpc::StatusCode::FAILED_PRECONDITION, v1::CONNECTION_RESET)
                : grpc::Status::OK;
}

// Pages of one, so that whoever asks must turn them.
grpc::Status FakeBroker::ListConnections(grpc::ServerContext* /*context*/,
                                         const v1::ListConnectionsRequest* request,
                                         v1::ListConnectionsResponse* response) {
  std::size_t index = 0;
  if (!request->page_token().empty()) index = std::stoul(request->page_token());
  while (index < listed_connections.size() &&
         !absl::StartsWith(listed_connections[index].handle(), request->handle_prefix())) {
    ++index;
  }
  if (index >= listed_connections.size()) return grpc::Status::OK;
  *response->add_connections() = listed_connections[index];
  response->set_next_page_token(absl::StrCat(index + 1));
  return grpc::Status::OK;
}

grpc::Status FakeBroker::ListServers(grpc::ServerContext* /*context*/,
                                     const v1::ListServersRequest* request,
                                     v1::ListServersResponse* response) {
  for (const v1::Server& server : listed_servers) {
    if (absl::StartsWith(server.handle(), request->handle_prefix()))
      *response->add_servers() = server;
  }
  return grpc::Status::OK;
}

}  // namespace sockbroker::client
