// FaultStream: a ByteStream around another that spoils the traffic, in either direction: holds it,
// splits it, delays it, or fails at an exact byte.
//
//   auto stream = std::make_shared<FaultStream>(loop, inner, Faults{.split = 1}, Faults{});
//   stream->HoldOutgoing();     // the peer is told nothing ...
//   stream->ReleaseOutgoing();  // ... until now
//
// Order is always kept: EOF, the end and errors stay behind the bytes before them. The water marks
// hold for what is kept here and for what the inner stream buffers, each by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "streams/address.h"
#include "streams/byte_stream.h"
#include "streams/event_loop.h"

namespace sockbroker::streams {

// What happens to one direction.
struct Faults {
  struct Failure {
    uint64_t offset;  // so many bytes pass
    absl::Status status;
  };
  // At most so many bytes at a time, each piece in a turn of its own. 0: as they come.
  std::size_t split = 0;
  // How long each piece takes.
  absl::Duration delay = absl::ZeroDuration();
  // The connection is reset there, and lost with that status.
  std::optional<Failure> fail = std::nullopt;
};

class FaultStream final : public ByteStream,
                          public StreamProtocol,
                          private EventLoop::ShutdownListener,
                          public std::enable_shared_from_this<FaultStream> {
 public:
  FaultStream(EventLoop* loop, std::shared_ptr<ByteStream> inner, Faults incoming, Faults outgoing);

  // Keeps everything of that direction back; what is under way to be delayed is kept too.
  void HoldIncoming();
  void ReleaseIncoming();
  void HoldOutgoing();
  void ReleaseOutgoing();

  void Start(std::shared_ptr<StreamProtocol> protocol) override;
  void SetProtocol(std::shared_ptr<StreamProtocol> protocol) override {
    protocol_ = std::move(protocol);
  }
  void PauseReading() override;
  void ResumeReading() override;
  void Write(absl::Cord data) override;
  std::size_t write_buffer_size() const override;
  uint64_t bytes_flushed() const override { return inner_->bytes_flushed(); }
  void SetWriteBufferLimits(std::size_t high, std::size_t low) override;
  bool CanWriteEof() const override { return inner_->CanWriteEof(); }
  void WriteEof() override;
  void Close() override;
  void Abort(bool reset, absl::Status status) override;
  bool is_closing() const override { return closing_ || inner_->is_closing(); }
  int fd() const override { return inner_->fd(); }
  const SocketAddress& peername() const override { return inner_->peername(); }
  const SocketAddress& sockname() const override { return inner_->sockname(); }

 private:
  // One direction: a queue of bytes and marks that lets one piece pass per turn, when its time has
  // come.
  class Lane {
   public:
    Lane(FaultStream* owner, Faults faults, absl::AnyInvocable<void(absl::Cord)> pass);
    void Push(absl::Cord data);
    // `mark` runs when everything before it has passed.
    void PushMark(absl::AnyInvocable<void()> mark);
    void Hold() { held_ = true; }
    void Release();
    void Clear();
    std::size_t size() const { return size_; }

   private:
    struct Item {
      absl::Cord data;
      absl::AnyInvocable<void()> mark;  // null: data
      absl::Time due;
    };
    void Schedule();
    void PassOne();

    FaultStream* const owner_;
    const Faults faults_;
    absl::AnyInvocable<void(absl::Cord)> pass_;
    std::deque<Item> items_;
    std::size_t size_ = 0;
    uint64_t passed_ = 0;
    bool held_ = false;
    bool failed_ = false;
    Timer timer_;
  };

  void OnData(absl::Cord data) override;
  bool OnEof() override;
  void OnPauseWriting() override;
  void OnResumeWriting() override;
  void OnConnectionLost(const absl::Status& status) override;

  void OnLoopShutdown() override;

  void Fail(const absl::Status& status);
  void Lose(const absl::Status& status);
  void ApplyReadingPause();
  void MaybePause();
  void MaybeResume();

  EventLoop* const loop_;
  const std::shared_ptr<ByteStream> inner_;
  // Both held from Start until the protocol was told of the end.
  std::shared_ptr<StreamProtocol> protocol_;
  std::shared_ptr<FaultStream> self_;
  std::size_t high_ = kDefaultHighWater;
  std::size_t low_ = kDefaultHighWater / 4;
  bool reading_paused_ = false;
  bool incoming_held_ = false;
  bool lane_paused_ = false;
  bool inner_paused_ = false;
  bool paused_ = false;
  bool closing_ = false;
  Lane incoming_;
  Lane outgoing_;
};

}  // namespace sockbroker::streams
