#include "session/mux.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <vector>

#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {
namespace {

using testing::Each;
using testing::Ge;

// A channel that refills from reads of given sizes.
class Source final : public MuxChannel {
 public:
  explicit Source(uint64_t window) : MuxChannel(1, SendHalf({}, window), ReceiveHalf({}, 1)) {}

  std::deque<std::size_t> reads;
  // What Refill was asked for.
  std::vector<std::size_t> asked;

 private:
  void Refill(std::size_t max) override {
    asked.push_back(max);
    if (reads.empty()) return;
    out.Append(absl::Cord(std::string(std::min(max, reads.front()), 'x')));
    reads.pop_front();
  }
  void WriteMark(Position /*at*/, FrameWriter* /*writer*/) override {}
  Position Taken() const override { return {}; }
};

void WritePing(uint64_t nonce, FrameWriter* writer) {
  v1::ClientFrame frame;
  frame.mutable_ping()->set_nonce(nonce);
  writer->Add(frame);
}

TEST(Mux, WhatATurnHasLeftDoesNotMakeTheNextReadSmall) {
  Mux mux(&WritePing);
  Source source(1 << 20);
  source.reads = {kTurn / 2, kTurn / 2 - 1, 100};
  mux.Ready(&source);
  EXPECT_GT(mux.NextBatch(absl::UnixEpoch()).size(), kTurn);
  EXPECT_THAT(source.asked, Each(Ge(kBatch)));
}

TEST(Mux, WhatWasReadBeyondATurnWaitsForTheNext) {
  Mux mux(&WritePing);
  Source big(1 << 20);
  Source small(1 << 20);
  big.reads = {3 * kTurn};
  small.reads = {100};
  mux.Ready(&big);
  mux.Ready(&small);
  EXPECT_GT(mux.NextBatch(absl::UnixEpoch()).size(), 3 * kTurn);
  EXPECT_EQ(small.out.sent().offset, 100u);
  EXPECT_EQ(big.out.sent().offset, 3 * kTurn);
}

TEST(Mux, NothingIsReadThatTheWindowHasNoRoomFor) {
  Mux mux(&WritePing);
  Source source(1000);
  source.reads = {700, 700};
  mux.Ready(&source);
  (void)mux.NextBatch(absl::UnixEpoch());
  EXPECT_EQ(source.asked, (std::vector<std::size_t>{1000, 300, 0}));
  EXPECT_EQ(source.out.sent().offset, 1000u);
}

TEST(Mux, BulkKeepsTheWayShortForWhoHasLittleToSay) {
  Mux mux(&WritePing, 2 * kTurn);
  Source bulk(1 << 20);
  Source small(1 << 20);
  bulk.reads = {kBatch, kBatch};
  mux.Ready(&bulk);
  EXPECT_GT(mux.NextBatch(absl::UnixEpoch()).size(), kBatch);  // alone it is not held back
  EXPECT_TRUE(mux.HasOutput());

  small.reads = {100};
  mux.Ready(&small);
  EXPECT_LT(mux.NextBatch(absl::UnixEpoch()).size(), 200u);
  EXPECT_EQ(small.out.sent().offset, 100u);
  EXPECT_FALSE(mux.HasOutput());
  EXPECT_TRUE(mux.NextBatch(absl::UnixEpoch()).empty());
  // What is no data still goes.
  v1::ClientFrame frame;
  frame.mutable_pong();
  mux.Control(frame);
  EXPECT_LT(mux.NextBatch(absl::UnixEpoch()).size(), 100u);

  // The ping behind the small one's bytes: all has arrived.
  mux.OnPong(1, absl::UnixEpoch());
  EXPECT_TRUE(mux.HasOutput());
  EXPECT_GT(mux.NextBatch(absl::UnixEpoch()).size(), kTurn);
}

}  // namespace
}  // namespace sockbroker::session
