#include "client/port_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sockbroker::client {
namespace {

using testing::ElementsAre;

TEST(PortRange, PortsRangesAndServicesAreTakenInOrder) {
  const auto ports = ParsePorts({"80", "20-22", "http", "ssh-agent", "0"});
  ASSERT_TRUE(ports.ok());
  EXPECT_THAT(*ports, ElementsAre(Port{80, ""}, Port{20, ""}, Port{21, ""}, Port{22, ""},
                                  Port{0, "http"}, Port{0, "ssh-agent"}, Port{0, ""}));
}

TEST(PortRange, ARangeMayBeWrittenEitherWayRound) {
  EXPECT_THAT(*ParsePorts({"3-1"}), ElementsAre(Port{1, ""}, Port{2, ""}, Port{3, ""}));
  EXPECT_THAT(*ParsePorts({"65534-65535"}), ElementsAre(Port{65534, ""}, Port{65535, ""}));
}

TEST(PortRange, WhatIsNoPortIsSaid) {
  for (const char* text : {"", "65536", "99999999999", "-1", "1-", "-", "1-65536", "1-b", "1e3",
                           "8 0", "port number"}) {
    EXPECT_FALSE(ParsePorts({text}).ok()) << text;
  }
}

TEST(PortRange, APortIsShownAsItWasNamed) {
  EXPECT_EQ(PortText(*ParsePort("443")), "443");
  EXPECT_EQ(PortText(*ParsePort("https")), "https");
}

}  // namespace
}  // namespace sockbroker::client
