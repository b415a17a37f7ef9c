#include "server/control_handshakes.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "streams/descriptor.h"

namespace sockbroker::server {
namespace {

using streams::Descriptor;

// Containers often have no IPv6.
bool HasIpv6() {
  const Descriptor fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  return bind(fd.get(), reinterpret_cast<sockaddr*>(&loopback), sizeof(loopback)) == 0;
}

// The two ends of a TCP connection over loopback.
struct Ends {
  explicit Ends(int family = AF_INET) {
    const Descriptor listener(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_storage address = {};
    address.ss_family = static_cast<sa_family_t>(family);
    socklen_t size = sizeof(address);
    if (family == AF_INET6) {
      reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr = in6addr_loopback;
    } else {
      reinterpret_cast<sockaddr_in*>(&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    }
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(listener.get(), any, size), 0);
    EXPECT_EQ(listen(listener.get(), 1), 0);
    EXPECT_EQ(getsockname(listener.get(), any, &size), 0);
    client = Descriptor(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(client.get(), any, size), 0);
    server = Descriptor(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    size = sizeof(address);
    EXPECT_EQ(getsockname(client.get(), any, &size), 0);
    const int port = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
    peer = family == AF_INET6 ? absl::StrCat("ipv6:%5B::1%5D:", port)
                              : absl::StrCat("ipv4:127.0.0.1:", port);
  }

  // Whether the client has seen the end.
  bool ended() const {
    char byte;
    const ssize_t n = recv(client.get(), &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  }

  Descriptor client;
  Descriptor server;
  std::string peer;  // as gRPC says it
};

TEST(ControlHandshakes, TheOldestEndsWhenThereIsOneTooMany) {
  ControlHandshakes handshakes(3);
  std::vector<Ends> all(5);
  for (const Ends& ends : all) handshakes.Begin(ends.server.get());
  EXPECT_TRUE(all[0].ended() && all[1].ended());
  EXPECT_FALSE(all[2].ended() || all[3].ended() || all[4].ended());
  EXPECT_EQ(handshakes.ended(), 2u);
  EXPECT_EQ(handshakes.size(), 3u);
}

TEST(ControlHandshakes, OneThatMadeACallIsNoneAnyMore) {
  ControlHandshakes handshakes(1);
  for (const int family : {AF_INET, AF_INET6}) {
    if (family == AF_INET6 && !HasIpv6()) continue;
    const Ends good(family);
    handshakes.Begin(good.server.get());
    handshakes.Proven("ipv4:192.0.2.1:1");
    EXPECT_EQ(handshakes.size(), 1u);
    handshakes.Proven(good.peer);
    EXPECT_EQ(handshakes.size(), 0u) << good.peer;
    const Ends next(family);
    handshakes.Begin(next.server.get());
    EXPECT_FALSE(good.ended());
    handshakes.Proven(next.peer);
  }
  EXPECT_EQ(handshakes.ended(), 0u);
}

TEST(ControlHandshakes, ThoseThatHaveEndedMakeRoomFirst) {
  ControlHandshakes handshakes(2);
  const Ends oldest;
  Ends gone;
  handshakes.Begin(oldest.server.get());
  handshakes.Begin(gone.server.get());
  gone.server = Descriptor();
  const Ends next;
  handshakes.Begin(next.server.get());
  EXPECT_FALSE(oldest.ended());
  EXPECT_EQ(handshakes.ended(), 0u);
}

TEST(ControlHandshakes, ANumberThatIsAnothersByNowIsLeftAlone) {
  ControlHandshakes handshakes(1);
  Ends first;
  const Ends other;
  const int number = first.server.get();
  handshakes.Begin(number);
  // In one step, as a socket that is closed and the next one that gets its number.
  ASSERT_EQ(dup2(other.server.get(), number), number);
  const Ends next;
  handshakes.Begin(next.server.get());
  EXPECT_FALSE(other.ended());
  EXPECT_EQ(handshakes.ended(), 0u);
}

TEST(ControlHandshakes, ADescriptorThatIsNoSocketIsNotKept) {
  ControlHandshakes handshakes(1);
  handshakes.Begin(-1);
  EXPECT_EQ(handshakes.size(), 0u);
}

}  // namespace
}  // namespace sockbroker::server
