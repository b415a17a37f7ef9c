#include "transport/write_turn.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

namespace sockbroker {
namespace {

TEST(WriteTurn, TheEndOfAWriteThatNobodyWaitsForIsToldToNobody) {
  WriteTurn turn;
  EXPECT_TRUE(turn.Free());
  turn.Begin();
  EXPECT_FALSE(turn.End());
  EXPECT_TRUE(turn.Free());
}

TEST(WriteTurn, WhoFindsAWriteUnderWayIsToldOfItsEndOnce) {
  WriteTurn turn;
  turn.Begin();
  EXPECT_FALSE(turn.Free());
  EXPECT_FALSE(turn.Free());
  EXPECT_TRUE(turn.End());
  EXPECT_TRUE(turn.Free());
  turn.Begin();
  EXPECT_FALSE(turn.End());
}

// Whichever comes first, the end of the write or the question: the writer goes on.
TEST(WriteTurn, AWriteThatEndsWhileItIsAskedForIsNotMissed) {
  WriteTurn turn;
  for (int i = 0; i < 1000; ++i) {
    std::promise<void> end;
    turn.Begin();
    bool told = false;
    std::thread other([&] {
      end.get_future().wait();
      told = turn.End();
    });
    end.set_value();
    const bool free = turn.Free();
    other.join();
    EXPECT_NE(free, told);
  }
}

}  // namespace
}  // namespace sockbroker
