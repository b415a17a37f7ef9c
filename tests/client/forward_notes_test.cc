#include "client/forward_notes.h"

#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

TEST(ForwardNotes, BytesAreShownInTheUnitThatFits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1536), "1.5 KiB");
  EXPECT_EQ(BytesText(17.0 * 1024), "17 KiB");
  EXPECT_EQ(BytesText(3.25 * 1024 * 1024 * 1024), "3.2 GiB");
}

TEST(ForwardNotes, TheStatusTellsTotalsAndRatesSinceTheLastOne) {
  ForwardStatus before{.open = 1, .total = 1, .traffic = {.sent = 1 << 20, .received = 0}};
  ForwardStatus now{.open = 3, .total = 7, .traffic = {.sent = 5 << 20, .received = 2048}};
  EXPECT_EQ(ForwardStatusText(now, before, absl::Seconds(2)),
            "3 connections open, 7 in all; sent 5.0 MiB, 2.0 MiB/s; received 2.0 KiB, 1.0 KiB/s");
  now.link_up = false;
  EXPECT_EQ(ForwardStatusText(now, now, absl::Seconds(1)),
            "no link to the broker; 3 connections open, 7 in all; sent 5.0 MiB, 0 B/s; "
            "received 2.0 KiB, 0 B/s");
}

TEST(ForwardNotes, TheFirstStatusHasNoRate) {
  EXPECT_EQ(ForwardStatusText({.open = 1, .total = 1, .traffic = {.sent = 10}}, {},
                              absl::InfiniteDuration()),
            "1 connection open, 1 in all; sent 10 B, 0 B/s; received 0 B, 0 B/s");
}

}  // namespace
}  // namespace sockbroker::client
