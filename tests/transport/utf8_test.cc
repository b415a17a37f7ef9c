#include "transport/utf8.h"

#include <gtest/gtest.h>

namespace sockbroker {
namespace {

TEST(Utf8Test, WhatIsNotUtf8IsReplaced) {
  EXPECT_EQ(ToUtf8("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(ToUtf8("a\xff"
                   "b"),
            "a\xef\xbf\xbd"
            "b");
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_FALSE(IsUtf8(bad)) << bad;
    EXPECT_TRUE(IsUtf8(ToUtf8(bad)));
  }
  EXPECT_TRUE(IsUtf8("\xf0\x9f\x98\x80"));
}

}  // namespace
}  // namespace sockbroker
