#include "client/cpp/internal/grpc_session_call.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/client_callback.h>

#include <cstddef>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "client/cpp/status.h"
#include "transport/byte_buffer.h"

namespace sockbroker::client::internal {
namespace {

// So many messages may wait for a loop that is busy; then the next is not read before it has taken
// some.
constexpr std::size_t kMaxWaiting = 8;

// Two owners: the loop's side, until it lets go, and gRPC, until OnDone. gRPC's threads only note
// what happened and wake the loop, once for all that has happened by then.
class Reactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                      public std::enable_shared_from_this<Reactor> {
 public:
  Reactor(std::shared_ptr<LoopGate> gate, SessionCall::Listener* listener)
      : gate_(std::move(gate)), listener_(listener) {}

  // --- the loop's side
  void Start(const std::shared_ptr<grpc::Channel>& channel, const Metadata& metadata) {
    self_ = shared_from_this();
    for (const auto& [key, value] : metadata) context_.AddMetadata(key, value);
    grpc::GenericStub stub(channel);
    stub.PrepareBidiStreamingCall(&context_, kSessionMethod, {}, this);
    // Writes begin on the loop, outside of gRPC's reactions: the call must not end before the loop
    // knows.
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }
  void Write(absl::Cord message) {
    if (!holding_) return;  // it has ended; OnEnded is on its way
    outgoing_ = ToByteBuffer(message);
    StartWrite(&outgoing_);
  }
  void LetGo() {
    listener_ = nullptr;
    context_.TryCancel();
    ReleaseHold();
  }

  // --- gRPC's threads
  void OnReadDone(bool ok) override {
    if (!ok) {
      Note([this] { reads_ended_ = true; });
      return;
    }
    absl::Cord message = ToCord(incoming_);
    incoming_.Clear();
    bool read_on = false;
    Note([&] {
      messages_.push_back(std::move(message));
      read_on = messages_.size() < kMaxWaiting;
      reading_waits_ = !read_on;
    });
    if (read_on) StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    outgoing_.Clear();
    // A write that failed is followed by the end.
    if (ok) Note([this] { written_ = true; });
  }
  void OnDone(const grpc::Status& status) override {
    Note([&] { ended_ = status; });
    // The last reference, perhaps.
    const std::shared_ptr<Reactor> self = std::move(self_);
  }

 private:
  template <typename Change>
  void Note(Change change) {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      change();
      wake = !std::exchange(posted_, true);
    }
    if (wake) gate_->Dispatch([self = shared_from_this()] { self->Tell(); });
  }

  // On the loop.
  void Tell() {
    std::vector<absl::Cord> messages;
    bool written = false;
    bool reads_ended = false;
    bool read_on = false;
    std::optional<grpc::Status> ended;
    {
      const std::lock_guard lock(mutex_);
      posted_ = false;
      messages.swap(messages_);
      written = std::exchange(written_, false);
      reads_ended = reads_ended_;
      read_on = std::exchange(reading_waits_, false);
      ended = std::exchange(ended_, std::nullopt);
    }
    if (read_on && holding_) StartRead(&incoming_);
    if (written && listener_ != nullptr) listener_->OnWritten();
    for (absl::Cord& message : messages) {
      if (listener_ == nullptr) break;
      listener_->OnMessage(std::move(message));
    }
    if (reads_ended) ReleaseHold();
    if (ended.has_value() && listener_ != nullptr) {
      std::exchange(listener_, nullptr)
          ->OnEnded(ended->ok() ? absl::UnavailableError("the broker ended the session")
                                : ToStatus(*ended));
    }
  }

  void ReleaseHold() {
    if (std::exchange(holding_, false)) RemoveHold();
  }

  const std::shared_ptr<LoopGate> gate_;
  grpc::ClientContext context_;
  std::shared_ptr<Reactor> self_;  // until OnDone
  // The loop's.
  SessionCall::Listener* listener_;
  bool holding_ = true;
  // gRPC's, while a read or a write is under way.
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  std::mutex mutex_;
  // Under the mutex: what the loop has not been told.
  bool posted_ = false;
  std::vector<absl::Cord> messages_;
  bool reading_waits_ = false;
  bool written_ = false;
  bool reads_ended_ = false;
  std::optional<grpc::Status> ended_;
};

class GrpcSessionCall final : public SessionCall {
 public:
  explicit GrpcSessionCall(std::shared_ptr<Reactor> reactor) : reactor_(std::move(reactor)) {}
  ~GrpcSessionCall() override { reactor_->LetGo(); }
  void Write(absl::Cord message) override { reactor_->Write(std::move(message)); }

 private:
  const std::shared_ptr<Reactor> reactor_;
};

}  // namespace

std::unique_ptr<SessionCall> DialGrpcSession(const std::shared_ptr<grpc::Channel>& channel,
                                             const Metadata& metadata,
                                             std::shared_ptr<LoopGate> gate,
                                             SessionCall::Listener* listener) {
  auto reactor = std::make_shared<Reactor>(std::move(gate), listener);
  reactor->Start(channel, metadata);
  return std::make_unique<GrpcSessionCall>(std::move(reactor));
}

}  // namespace sockbroker::client::internal
