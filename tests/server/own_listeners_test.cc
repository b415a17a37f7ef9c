#include "server/own_listeners.h"

#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "streams/descriptor.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using streams::SocketAddress;

SocketAddress Ip(const char* host, uint16_t port) { return *SocketAddress::FromIp(host, port); }

TEST(OwnListenersTest, TheSameAddressIsRecognisedInAllItsClothes) {
  OwnListeners listeners;
  listeners.Add(Ip("127.0.0.1", 80));
  EXPECT_TRUE(listeners.Contains(Ip("127.0.0.1", 80)));
  EXPECT_TRUE(listeners.Contains(Ip("::ffff:127.0.0.1", 80)));
  EXPECT_TRUE(listeners.Contains(Ip("0.0.0.0", 80)));
  EXPECT_TRUE(listeners.Contains(Ip("::", 80)));
  EXPECT_FALSE(listeners.Contains(Ip("127.0.0.1", 81)));
  EXPECT_FALSE(listeners.Contains(Ip("127.0.0.2", 80)));
  EXPECT_FALSE(listeners.Contains(Ip("192.0.2.1", 80)));
}

TEST(OwnListenersTest, AListenerOnEveryInterfaceIsReachedByEachAddressOfTheMachine) {
  OwnListeners listeners;
  listeners.Add(Ip("0.0.0.0", 80));
  EXPECT_TRUE(listeners.Contains(Ip("127.0.0.1", 80)));
  EXPECT_TRUE(listeners.Contains(Ip("127.9.9.9", 80)));
  EXPECT_TRUE(listeners.Contains(Ip("0.0.0.0", 80)));
  EXPECT_FALSE(listeners.Contains(Ip("192.0.2.1", 80)));
  ifaddrs* interfaces = nullptr;
  ASSERT_EQ(getifaddrs(&interfaces), 0);
  for (const ifaddrs* i = interfaces; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    SocketAddress address = SocketAddress::FromSockaddr(i->ifa_addr, sizeof(sockaddr_in));
    address.set_port(80);
    EXPECT_TRUE(listeners.Contains(address)) << address.ToString();
  }
  freeifaddrs(interfaces);
}

TEST(OwnListenersTest, AUnixSocketIsRecognisedByItsInode) {
  const TemporaryDirectory directory;
  const std::string path = directory.path("a.sock");
  const SocketAddress address = *SocketAddress::FromUnixPath(path);
  streams::Descriptor fd(socket(AF_UNIX, SOCK_STREAM, 0));
  ASSERT_EQ(bind(fd.get(), address.data(), address.size()), 0);
  OwnListeners listeners;
  listeners.Add(address);
  EXPECT_TRUE(listeners.Contains(address));
  ASSERT_EQ(link(path.c_str(), directory.path("hard").c_str()), 0);
  ASSERT_EQ(symlink(path.c_str(), directory.path("soft").c_str()), 0);
  EXPECT_TRUE(listeners.Contains(*SocketAddress::FromUnixPath(directory.path("hard"))));
  EXPECT_TRUE(listeners.Contains(*SocketAddress::FromUnixPath(directory.path("soft"))));
  EXPECT_TRUE(listeners.Contains(*SocketAddress::FromUnixPath(directory.path("./a.sock"))));
  EXPECT_FALSE(listeners.Contains(*SocketAddress::FromUnixPath(directory.path("b.sock"))));
  const std::string abstract("\0own", 4);
  listeners.Add(*SocketAddress::FromUnixPath(abstract));
  EXPECT_TRUE(listeners.Contains(*SocketAddress::FromUnixPath(abstract)));
}

}  // namespace
}  // namespace sockbroker::server
