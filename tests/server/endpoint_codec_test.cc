#include "server/endpoint_codec.h"

#include <string>

#include "gtest/gtest.h"

namespace sockbroker::server {
namespace {

TEST(EndpointCodecTest, AddressesBecomeTheirKind) {
  const v1::Endpoint tcp = ToProto(*streams::SocketAddress::FromIp("::1", 80));
  EXPECT_EQ(tcp.tcp().host(), "::1");
  EXPECT_EQ(tcp.tcp().port(), 80u);
  const std::string abstract("\0name", 5);
  EXPECT_EQ(ToProto(*streams::SocketAddress::FromUnixPath(abstract)).unix(), abstract);
  EXPECT_EQ(ToProto(streams::SocketAddress()).kind_case(), v1::Endpoint::KIND_NOT_SET);
}

TEST(EndpointCodecTest, DurationsThatAreNoneAreRefused) {
  google::protobuf::Duration duration;
  duration.set_seconds(1);
  duration.set_nanos(500'000'000);
  EXPECT_EQ(FromProto(duration), absl::Milliseconds(1500));
  duration.set_nanos(-1);
  EXPECT_FALSE(FromProto(duration).has_value());
  duration.set_nanos(1'000'000'000);
  EXPECT_FALSE(FromProto(duration).has_value());
  duration.set_nanos(0);
  duration.set_seconds(INT64_MAX);
  EXPECT_FALSE(FromProto(duration).has_value());
  EXPECT_EQ(ToProto(absl::InfiniteDuration()).seconds(), 315'576'000'000);
  EXPECT_EQ(ToProto(absl::Milliseconds(-1500)).seconds(), -1);
  EXPECT_EQ(ToProto(absl::Milliseconds(-1500)).nanos(), -500'000'000);
}

TEST(EndpointCodecTest, WhatIsNotUtf8IsReplaced) {
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
}  // namespace sockbroker::server
