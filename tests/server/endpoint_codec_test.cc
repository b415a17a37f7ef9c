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

}  // namespace
}  // namespace sockbroker::server
