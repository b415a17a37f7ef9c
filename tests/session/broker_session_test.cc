#include "session/broker_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace sockbroker::session {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// A connection whose peer takes what the test says.
class Connection final : public BrokerConnection {
 public:
  uint64_t flushed = 0;

  void OnBinding(ConnectionListener* listener) override { listener_ = listener; }
  absl::Cord Read(std::size_t, std::size_t) override { return {}; }
  bool AtEof() const override { return false; }
  bool Exhausted() const override { return false; }
  ReadMarkLog& read_marks() override { return marks_; }
  absl::Status Write(absl::Cord) override { return absl::OkStatus(); }
  uint64_t Flushed() const override { return flushed; }
  void WriteEof() override {}
  void StartTls(const v1::SessionStartTls&, absl::Cord) override {}
  void Close() override {}
  void Abort() override {}
  void Unbind(Position, absl::Cord, Position) override {}

  void Flush(uint64_t bytes) {
    flushed += bytes;
    listener_->OnFlushed();
  }

 private:
  ConnectionListener* listener_ = nullptr;
  ReadMarkLog marks_;
};

class BrokerSessionTest : public testing::Test, public BrokerSession::Host {
 protected:
  ~BrokerSessionTest() override { session_.OnLinkDown(); }

  void SetUp() override {
    v1::ClientFrames frames;
    frames.add_frames()->mutable_hello()->set_holder("0123456789abcdef");
    frames.add_frames()->mutable_open()->set_channel(1);
    Hear(frames);
    BrokerSession::Binding binding;
    binding.connection = connection_;
    binding.window = kWindow;
    channel_ = session_.Opened(1, std::move(binding));
  }
  void Hear(const v1::ClientFrames& frames) {
    ASSERT_TRUE(session_.OnMessage(absl::Cord(frames.SerializeAsString()), now_).ok());
  }
  // `bytes` of data at `offset`.
  void HearData(uint64_t offset, std::size_t bytes) {
    v1::ClientFrames frames;
    v1::Data* data = frames.add_frames()->mutable_data();
    data->set_channel(1);
    data->set_offset(offset);
    data->set_data(std::string(bytes, 'x'));
    Hear(frames);
  }
  void HearRevoked(uint64_t edge) {
    v1::ClientFrames frames;
    frames.add_frames()->mutable_revoked()->set_channel(1);
    frames.mutable_frames(0)->mutable_revoked()->set_edge(edge);
    Hear(frames);
  }

  // BrokerSession::Host.
  void Open(v1::Open) override {}
  void Bind(v1::Bind, const std::string&) override {}
  void Listen(v1::Listen) override {}
  void StopListening(uint32_t) override {}
  void Claimed(BrokerConnection*) override {}
  uint64_t GrowWindow(BrokerConnection*, uint64_t window) override { return window; }
  void ShrinkWindow(BrokerConnection*, uint64_t window) override { windows_.push_back(window); }
  void OnRoom() override {}

  static constexpr uint64_t kWindow = 1000;
  const absl::Time now_ = absl::UnixEpoch();
  const std::shared_ptr<Connection> connection_ = std::make_shared<Connection>();
  std::vector<uint64_t> windows_;  // what each connection was to be left with
  BrokerSession session_{{}, this};
  BrokerChannel* channel_ = nullptr;
};

TEST_F(BrokerSessionTest, WhatARevokedWindowWasGrantedIsGivenBackAsItsBacklogDrains) {
  HearData(0, 600);
  channel_->Revoke(100);
  connection_->Flush(100);
  EXPECT_THAT(windows_, IsEmpty()) << "the client may still send as far as before";
  HearRevoked(700);
  EXPECT_THAT(windows_, ElementsAre(600));  // from 100, which the peer has, up to 700
  connection_->Flush(300);
  EXPECT_THAT(windows_, ElementsAre(600, 300));
  connection_->Flush(200);
  EXPECT_THAT(windows_, ElementsAre(600, 300, 100));
  // It is down to the new window, and stays there.
  HearData(600, 100);
  connection_->Flush(100);
  EXPECT_THAT(windows_, ElementsAre(600, 300, 100));
}

}  // namespace
}  // namespace sockbroker::session
