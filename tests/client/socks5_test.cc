#include "client/socks5.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "client/cpp/status.h"
#include "streams/error.h"

namespace sockbroker::client {
namespace {

using testing::HasSubstr;

std::string Bytes(std::initializer_list<int> bytes) {
  std::string text;
  for (const int byte : bytes) text += static_cast<char>(byte);
  return text;
}

// Feeds as much as is wanted, and gives all replies; `*input` keeps what was not asked for.
std::string Drive(Socks5Handshake* handshake, std::string* input) {
  std::string replies;
  while (handshake->wanted() > 0 && input->size() >= handshake->wanted()) {
    const std::string bytes = input->substr(0, handshake->wanted());
    input->erase(0, bytes.size());
    replies += handshake->Feed(bytes);
  }
  return replies;
}

std::string Greeting() { return Bytes({5, 1, 0}); }

TEST(Socks5, AnIpv4AddressIsTaken) {
  Socks5Handshake handshake;
  std::string input = Greeting() + Bytes({5, 1, 0, 1, 192, 0, 2, 7, 0x1f, 0x90});
  EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}));
  EXPECT_FALSE(handshake.failed());
  EXPECT_EQ(handshake.wanted(), 0u);
  EXPECT_EQ(handshake.host(), "192.0.2.7");
  EXPECT_EQ(handshake.port(), 8080);
}

TEST(Socks5, AnIpv6AddressIsTaken) {
  Socks5Handshake handshake;
  std::string input = Greeting() + Bytes({5, 1, 0, 4}) + Bytes({0xfd, 0}) + std::string(13, '\0') +
                      Bytes({5, 0, 80});
  EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}));
  EXPECT_EQ(handshake.host(), "fd00::5");
  EXPECT_EQ(handshake.port(), 80);
}

TEST(Socks5, ANameIsLeftToTheBroker) {
  Socks5Handshake handshake;
  std::string input =
      Greeting() + Bytes({5, 1, 0, 3, 11}) + "example.org" + Bytes({0, 443}) + "early data";
  // 443 does not fit a byte.
  input[input.size() - 12] = 1;
  input[input.size() - 11] = static_cast<char>(0xbb);
  EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}));
  EXPECT_EQ(handshake.host(), "example.org");
  EXPECT_EQ(handshake.port(), 443);
  EXPECT_EQ(input, "early data") << "what follows the request is not the handshake's";
}

TEST(Socks5, NoAuthenticationIsFoundAmongOtherMethods) {
  Socks5Handshake handshake;
  std::string input = Bytes({5, 3, 2, 1, 0});
  EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}));
  EXPECT_FALSE(handshake.failed());
}

TEST(Socks5, AClientThatInsistsOnAPasswordIsRefused) {
  for (const std::string& greeting : {Bytes({5, 1, 2}), Bytes({5, 0})}) {
    Socks5Handshake handshake;
    std::string input = greeting;
    EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0xff}));
    EXPECT_TRUE(handshake.failed());
    EXPECT_EQ(handshake.wanted(), 0u);
  }
}

TEST(Socks5, BindAndUdpAreRefused) {
  for (const int command : {2, 3, 9}) {
    Socks5Handshake handshake;
    std::string input = Greeting() + Bytes({5, command, 0, 1, 127, 0, 0, 1, 0, 80});
    EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}) + Bytes({5, 7, 0, 1, 0, 0, 0, 0, 0, 0}));
    EXPECT_THAT(handshake.error(), HasSubstr("only CONNECT"));
  }
}

TEST(Socks5, AnUnknownTypeOfAddressIsRefused) {
  Socks5Handshake handshake;
  std::string input = Greeting() + Bytes({5, 1, 0, 2, 127, 0, 0, 1, 0, 80});
  EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}) + Bytes({5, 8, 0, 1, 0, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(handshake.failed());
}

TEST(Socks5, ANameThatCanBeNoneNeverReachesTheBroker) {
  // In the contract a name is UTF-8: other bytes would make the whole session's frame unreadable.
  for (const std::string& name :
       {std::string("a\xff") + "b", std::string("a\0b", 3), std::string("a b"), std::string()}) {
    Socks5Handshake handshake;
    std::string input =
        Greeting() + Bytes({5, 1, 0, 3, static_cast<int>(name.size())}) + name + Bytes({0, 80});
    EXPECT_EQ(Drive(&handshake, &input), Bytes({5, 0}) + Bytes({5, 1, 0, 1, 0, 0, 0, 0, 0, 0}));
    EXPECT_TRUE(handshake.failed()) << name;
  }
}

TEST(Socks5, OtherProtocolsAreToldApartForPeople) {
  const std::pair<std::string, std::string> cases[] = {
      {Bytes({4, 1}), "SOCKS 4"}, {"GET / HTTP/1.1", "HTTP"}, {Bytes({22, 3}), "first byte is 22"}};
  for (const auto& [bytes, text] : cases) {
    Socks5Handshake handshake;
    std::string input = bytes;
    EXPECT_EQ(Drive(&handshake, &input), "") << "nothing that the stranger could misread";
    EXPECT_THAT(handshake.error(), HasSubstr(text));
  }
}

TEST(Socks5, WhateverComesTheHandshakeEnds) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    Socks5Handshake handshake;
    // Half of them begin well, so that the deeper states are reached.
    std::string input = round % 2 == 0 ? Greeting() + Bytes({5, 1, 0}) : "";
    for (int i = 0; i < 300; ++i) input += static_cast<char>(random());
    (void)Drive(&handshake, &input);
    ASSERT_EQ(handshake.wanted(), 0u);
    if (!handshake.failed()) {
      ASSERT_FALSE(handshake.host().empty());
      ASSERT_NE(handshake.port(), 0);
    }
    EXPECT_EQ(handshake.Feed(""), "") << "after the end nothing is taken";
  }
}

TEST(Socks5, TheReplyHasTheBrokersEnd) {
  EXPECT_EQ(Socks5Reply(Socks5Code::kSucceeded, *streams::SocketAddress::FromIp("10.1.2.3", 258)),
            Bytes({5, 0, 0, 1, 10, 1, 2, 3, 1, 2}));
  EXPECT_EQ(Socks5Reply(Socks5Code::kSucceeded, *streams::SocketAddress::FromIp("::1", 80)),
            Bytes({5, 0, 0, 4}) + std::string(15, '\0') + Bytes({1, 0, 80}));
}

absl::Status Failure(v1::Reason reason, int os_errno = 0) {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  detail.set_os_errno(os_errno);
  absl::Status status = absl::FailedPreconditionError("no");
  SetErrorDetail(detail, &status);
  return status;
}

TEST(Socks5, TheBrokersReasonsHaveCodes) {
  EXPECT_EQ(Socks5CodeFor(absl::OkStatus()), Socks5Code::kSucceeded);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::CONNECTION_REFUSED)), Socks5Code::kConnectionRefused);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::UNREACHABLE, EHOSTUNREACH)), Socks5Code::kHostUnreachable);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::UNREACHABLE, ENETUNREACH)), Socks5Code::kNetworkUnreachable);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::NAME_NOT_FOUND)), Socks5Code::kHostUnreachable);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::TIMED_OUT)), Socks5Code::kTtlExpired);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::POLICY)), Socks5Code::kNotAllowed);
  EXPECT_EQ(Socks5CodeFor(Failure(v1::QUOTA)), Socks5Code::kGeneralFailure);
  EXPECT_EQ(Socks5CodeFor(absl::UnavailableError("no broker")), Socks5Code::kGeneralFailure);
}

}  // namespace
}  // namespace sockbroker::client
