// ClientChannel: a channel at the client's end. It outlives the stream it runs on: what was written
// is kept until the broker has it, and its listener gets every byte once.
//
//   ClientChannel* channel = session.Open(request, &listener);  // a ClientSession makes them
//   channel->Write(absl::Cord("hello"));
//   channel->Consume(5);                                        // of what OnData has given
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "session/frame_codec.h"
#include "session/mux.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {

class ClientSession;

// What an application learns of its channel. Every call comes from OnMessage.
class ClientListener {
 public:
  virtual ~ClientListener() = default;
  // The connection is there: opened, or bound (again). `write`: where it stands for the broker.
  virtual void OnBound(const v1::Connection& connection, uint64_t epoch) = 0;
  // The next bytes, each once and in order. The application says Consume when it has really taken
  // them.
  virtual void OnData(absl::Cord bytes) = 0;
  virtual void OnEof() = 0;
  virtual void OnTlsStarted(const v1::TlsInfo& info) = 0;
  // The broker has taken more of what was written (see unacked), or its kernel has (flushed).
  virtual void OnProgress() = 0;
  // Some of what was written has gone into a message: there is less that waits for the window.
  virtual void OnSent() {}
  // The peer takes no more. Data may still come.
  virtual void OnWriteClosed(const google::rpc::Status& status) = 0;
  // The connection has ended, and all that came from it was given; OnClosed follows when the last
  // of it was consumed.
  virtual void OnEnding(const v1::Closed& /*closed*/) {}

  // The last call, one of these. The channel is gone when it returns.
  // The connection has ended, and everything that came before was consumed. May come from inside
  // Consume.
  virtual void OnClosed(const v1::Closed& closed) = 0;
  virtual void OnFailed(const google::rpc::Status& status) = 0;
  virtual void OnDetached() = 0;
  virtual void OnFenced(uint64_t epoch) = 0;
  // The broker that had it is no more: what lies between the offsets is in doubt.
  virtual void OnLost(const v1::Offsets& last_known) = 0;
};

class ClientChannel final : public MuxChannel {
 public:
  // Bytes and marks, in order; kept until the broker has them.
  void Write(absl::Cord bytes);
  void WriteEof();
  // The upgrade stands behind what was written; what is written from now on is protected. What was
  // received and not consumed belongs to TLS.
  void StartTls(v1::TlsOptions options, v1::StartTlsRequest::Side side);
  // Flushes, then closes: OnClosed follows.
  void Close();
  // At once, by RST. Of a channel that no stream has carried yet nothing is left: OnFailed comes
  // from inside the call.
  void Abort();
  // Leaves the connection to its lease, behind what was written: OnDetached follows.
  void Detach();
  // The application has taken so many of the bytes it was given.
  void Consume(uint64_t bytes);
  // How much may be on its way to us or waiting for the application.
  void set_window(uint64_t window);

  // Written and not yet taken by the broker; one past the last byte that its kernel is known to
  // have.
  uint64_t unacked() const { return out.end().offset - out.taken().offset; }
  // Of that, what no message of this stream has carried yet: the window holds it back, or the link
  // is down.
  uint64_t unsent() const { return out.end().offset - out.sent().offset; }
  // How far the broker lets it send.
  uint64_t edge() const { return out.edge(); }
  uint64_t broker_flushed() const { return flushed_; }
  Position written() const { return out.end(); }
  uint64_t epoch() const { return epoch_; }
  const std::string& handle() const { return handle_; }
  bool bound() const { return state_ == State::kBound; }
  // A stream has carried its Open or Bind.
  bool asked() const { return state_ != State::kNew; }

 private:
  friend class ClientSession;
  enum class State {
    kNew,      // no stream has carried its Open or Bind yet
    kWaiting,  // asked, not answered
    kBound,
    kBroken,  // was bound; the link is down
  };
  ClientChannel(ClientSession* session, ClientListener* listener, uint64_t window)
      : MuxChannel(0, SendHalf({}, 0), ReceiveHalf({}, window)),
        session_(session),
        listener_(listener) {}

  void Refill(std::size_t) override {}
  void OnSent() override { listener_->OnSent(); }
  void WriteMark(Position at, FrameWriter* writer) override;
  // Detach is no mark: it stands behind everything, and is said once per binding.
  bool WriteEnd(FrameWriter* writer) override;
  Position Taken() const override {
    return {std::min(in.consumed().offset, in.seen().offset),
            std::min(in.consumed().marks, in.seen().marks)};
  }
  void AddMark(v1::ClientFrame frame);
  void SayAbort();
  void ReadyIfOpen();
  // Nothing is said on a channel that was asked for again before the answer: nobody knows yet where
  // the broker stands.
  bool MaySpeak() const {
    return state_ == State::kBound ||
           (state_ == State::kWaiting && handle_.empty() && !asked_before_);
  }
  // The broker's last word came, and everything before it was consumed.
  void FinishIfConsumed();

  ClientSession* const session_;
  ClientListener* listener_;
  State state_ = State::kNew;
  uint64_t sequence_ = 0;  // in the order of their making
  // How it came to be, for the streams to come.
  std::optional<v1::Open> open_;
  std::optional<v1::Bind> bind_;
  bool asked_before_ = false;  // an earlier stream carried the Open: the answer may be a Bound
  std::string handle_;
  uint64_t epoch_ = 0;
  uint64_t flushed_ = 0;
  bool aborted_ = false;
  bool detaching_ = false;
  bool detach_sent_ = false;
  // The frames of the marks that were not taken yet, by number.
  std::list<std::pair<uint32_t, v1::ClientFrame>> marks_;
  // StartTls is under way: what comes before TlsStarted, from here on, is not ours to read.
  std::optional<uint64_t> discard_from_;
  std::optional<v1::Closed> closed_;  // told when everything before it was consumed
};

}  // namespace sockbroker::session
