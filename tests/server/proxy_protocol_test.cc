#include "server/proxy_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "streams/testing/status_matchers.h"

namespace sockbroker::server {
namespace {

using streams::IsOkAndHolds;
using streams::SocketAddress;
using streams::StatusIs;
using ::testing::HasSubstr;
using Result = ProxyHeaderParser::Result;

const std::string kSignature("\r\n\r\n\0\r\nQUIT\n", 12);

SocketAddress Ip(const std::string& host, uint16_t port) {
  return *SocketAddress::FromIp(host, port);
}

// A v2 header: version and command, family and transport, and what follows the length.
std::string V2(uint8_t version_command, uint8_t family, const std::string& block) {
  return kSignature + static_cast<char>(version_command) + static_cast<char>(family) +
         static_cast<char>(block.size() >> 8) + static_cast<char>(block.size() & 0xff) + block;
}
const std::string kInetBlock("\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb", 12);

Result FeedAll(const std::string& data) {
  ProxyHeaderParser parser;
  return parser.Feed(data);
}

std::string WhyBad(const std::string& data) {
  ProxyHeaderParser parser;
  if (parser.Feed(data) != Result::kBad) return "(not bad)";
  return std::string(parser.error().message());
}

// --- encoding

TEST(ProxyEncode, WritesVersion1AsTheSpecificationShowsIt) {
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1, {.source = Ip("192.168.0.1", 56324),
                                                    .destination = Ip("192.168.0.11", 443)}),
              IsOkAndHolds("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"));
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1,
                                {.source = Ip("2001:db8::1", 1), .destination = Ip("::1", 65535)}),
              IsOkAndHolds("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"));
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1, {}), IsOkAndHolds("PROXY UNKNOWN\r\n"));
}

TEST(ProxyEncode, WritesVersion2ToTheByte) {
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV2, {.source = Ip("192.0.2.1", 12345),
                                                    .destination = Ip("198.51.100.2", 443)}),
              IsOkAndHolds(V2(0x21, 0x11, kInetBlock)));
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV2, {}), IsOkAndHolds(V2(0x20, 0x00, "")));
}

TEST(ProxyEncode, MapsAnIpv4EndBesideAnIpv6One) {
  // why: a header has one family, and a dual-stack proxy meets both
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1, {.source = Ip("192.0.2.1", 1),
                                                    .destination = Ip("2001:db8::2", 2)}),
              IsOkAndHolds("PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n"));
}

TEST(ProxyEncode, RefusesWhatTheProtocolCannotSay) {
  const SocketAddress unix_end = *SocketAddress::FromUnixPath("/run/x");
  using absl::StatusCode;
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1, {.source = Ip("192.0.2.1", 1)}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("both ends or none")));
  EXPECT_THAT(
      EncodeProxyHeader(ProxyVersion::kV2, {.source = unix_end, .destination = Ip("::1", 1)}),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("beside")));
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV1, {.source = unix_end, .destination = unix_end}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("version 1")));
  EXPECT_THAT(EncodeProxyHeader(ProxyVersion::kV2,
                                {.source = Ip("fe80::1%1", 1), .destination = Ip("::1", 1)}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("zones")));
}

// --- both ways

struct RoundTrip {
  ProxyVersion version;
  SocketAddress source;
  SocketAddress destination;
};

std::vector<RoundTrip> RoundTrips() {
  return {
      {ProxyVersion::kV1, Ip("192.0.2.1", 0), Ip("198.51.100.2", 65535)},
      {ProxyVersion::kV1, Ip("2001:db8::1", 80), Ip("::", 1)},
      {ProxyVersion::kV1, {}, {}},
      {ProxyVersion::kV2, Ip("192.0.2.1", 1), Ip("198.51.100.2", 443)},
      {ProxyVersion::kV2, Ip("2001:db8::1", 80), Ip("::1", 443)},
      {ProxyVersion::kV2, *SocketAddress::FromUnixPath("/run/a.sock"),
       *SocketAddress::FromUnixPath(std::string("\0abstract", 9))},
      {ProxyVersion::kV2, {}, {}},
  };
}

TEST(ProxyRoundTrip, WhatIsEncodedIsParsedToTheSameEnds) {
  for (const RoundTrip& trip : RoundTrips()) {
    const std::string header =
        *EncodeProxyHeader(trip.version, {.source = trip.source, .destination = trip.destination});
    ProxyHeaderParser parser;
    ASSERT_EQ(parser.Feed(header + "payload"), Result::kDone);
    EXPECT_EQ(parser.header_size(), header.size());
    EXPECT_EQ(parser.version(), trip.version);
    EXPECT_EQ(parser.header().source.ToString(), trip.source.ToString());
    EXPECT_EQ(parser.header().destination.ToString(), trip.destination.ToString());
    EXPECT_EQ(parser.header().source.family(), trip.source.family());
  }
}

TEST(ProxyRoundTrip, EveryPrefixAsksForMore) {
  for (const RoundTrip& trip : RoundTrips()) {
    const std::string header =
        *EncodeProxyHeader(trip.version, {.source = trip.source, .destination = trip.destination});
    for (std::size_t size = 0; size < header.size(); size++) {
      EXPECT_EQ(FeedAll(header.substr(0, size)), Result::kNeedMore) << size;
    }
  }
}

// --- version 1

TEST(ProxyV1, TakesTheLongestLineThereCanBe) {
  const std::string address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
  const std::string line = "PROXY UNKNOWN " + address + " " + address + " 65535 65535\r\n";
  ASSERT_EQ(line.size(), kProxyV1MaxSize);
  ProxyHeaderParser parser;
  EXPECT_EQ(parser.Feed(line), Result::kDone);
  EXPECT_EQ(parser.header_size(), kProxyV1MaxSize);
  EXPECT_EQ(parser.header().source.family(), AF_UNSPEC);
}

TEST(ProxyV1, ALineOfMoreThan107BytesIsBadBeforeItEnds) {
  // why: else a peer could make the broker buffer for ever
  const std::string endless = "PROXY UNKNOWN " + std::string(200, 'x');
  EXPECT_EQ(FeedAll(endless.substr(0, kProxyV1MaxSize - 1)), Result::kNeedMore);
  EXPECT_THAT(WhyBad(endless.substr(0, kProxyV1MaxSize)), HasSubstr("longer than 107"));
  // The line feed would be byte 108.
  EXPECT_THAT(WhyBad(endless.substr(0, kProxyV1MaxSize - 1) + "\r\n"),
              HasSubstr("longer than 107"));
}

TEST(ProxyV1, IgnoresWhatStandsBehindUnknown) {
  EXPECT_EQ(FeedAll("PROXY UNKNOWN some words of its own\r\n"), Result::kDone);
  EXPECT_EQ(FeedAll("PROXY UNKNOWNX\r\n"), Result::kBad);
}

TEST(ProxyV1, IsStrict) {
  for (const char* line : {
           "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",        // a port is missing
           "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",     // a space too many
           "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",     // likewise
           "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",     // likewise
           "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",  // not a port
           "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",     // leading zero
           "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",     // sign
           "PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",     //
           "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",     // octal?
           "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",        // a short form of inet_aton's
           "PROXY TCP4 0xc0000201 192.0.2.2 1 2\r\n",     // likewise
           "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",  // the other family
           "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",      // likewise
           "PROXY TCP6 fe80::1%1 ::1 1 2\r\n",            // a zone
           "PROXY TCP6 1::2::3 ::1 1 2\r\n",              // two gaps
           "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",      // not in version 1
           "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",      // case matters
           "PROXY \r\n",                                  //
           "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n",    // CR without LF
           "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",      //
           "GET / HTTP/1.1\r\n",                          // no header at all
           "\r\nPROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",  //
       }) {
    EXPECT_EQ(FeedAll(line), Result::kBad) << line;
  }
  EXPECT_EQ(FeedAll(std::string("PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n", 37)), Result::kBad);
}

TEST(ProxyV1, ALineFeedAloneDoesNotEndTheLine) {
  EXPECT_EQ(FeedAll("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n"), Result::kNeedMore);
}

TEST(ProxyV1, WhatIsNoHeaderIsBadWithItsFirstWrongByte) {
  // why: a client that speaks first must not be kept waiting for the time-out
  EXPECT_EQ(FeedAll("G"), Result::kBad);
  EXPECT_EQ(FeedAll("P"), Result::kNeedMore);
  EXPECT_EQ(FeedAll("PO"), Result::kBad);
  EXPECT_EQ(FeedAll("\r"), Result::kNeedMore);
  EXPECT_EQ(FeedAll("\r\r"), Result::kBad);
}

// --- version 2

TEST(ProxyV2, SkipsWhatFollowsTheAddresses) {
  // why: TLVs (authority, TLS details, checksums) may stand there, and count as header
  const std::string header = V2(0x21, 0x11, kInetBlock + std::string("\x02\x00\x03www", 6));
  ProxyHeaderParser parser;
  ASSERT_EQ(parser.Feed(header + "payload"), Result::kDone);
  EXPECT_EQ(parser.header_size(), header.size());
  EXPECT_EQ(parser.header().source, Ip("192.0.2.1", 12345));
  EXPECT_EQ(parser.header().destination, Ip("198.51.100.2", 443));
}

TEST(ProxyV2, TakesTheLongestHeaderThereCanBe) {
  std::string block(65535, 't');
  block.replace(0, kInetBlock.size(), kInetBlock);
  const std::string header = V2(0x21, 0x11, block);
  ASSERT_EQ(header.size(), kProxyV2MaxSize);
  EXPECT_EQ(FeedAll(header.substr(0, header.size() - 1)), Result::kNeedMore);
  EXPECT_EQ(FeedAll(header), Result::kDone);
}

TEST(ProxyV2, LocalIgnoresItsFamilyAndBlock) {
  // why: "discard the protocol block including the family which is ignored"
  for (const std::string& header :
       {V2(0x20, 0x00, ""), V2(0x20, 0x11, kInetBlock), V2(0x20, 0xff, "junk")}) {
    ProxyHeaderParser parser;
    ASSERT_EQ(parser.Feed(header), Result::kDone);
    EXPECT_TRUE(parser.header().local);
    EXPECT_EQ(parser.header().source.family(), AF_UNSPEC);
    EXPECT_EQ(parser.header_size(), header.size());
  }
}

TEST(ProxyV2, AProxiedConnectionOfAnotherKindHasNoAddresses) {
  // why: UNSPEC must be accepted; a datagram's ends are not this connection's
  for (const uint8_t family : {0x00, 0x01, 0x10, 0x12, 0x22, 0x32}) {
    ProxyHeaderParser parser;
    ASSERT_EQ(parser.Feed(V2(0x21, family, std::string(216, 'a'))), Result::kDone) << int{family};
    EXPECT_FALSE(parser.header().local);
    EXPECT_EQ(parser.header().source.family(), AF_UNSPEC);
  }
}

TEST(ProxyV2, IsStrict) {
  EXPECT_THAT(WhyBad(V2(0x11, 0x11, kInetBlock)), HasSubstr("version"));
  EXPECT_THAT(WhyBad(V2(0x31, 0x11, kInetBlock)), HasSubstr("version"));
  EXPECT_THAT(WhyBad(V2(0x22, 0x11, kInetBlock)), HasSubstr("command"));
  EXPECT_THAT(WhyBad(V2(0x21, 0x41, kInetBlock)), HasSubstr("family"));
  EXPECT_THAT(WhyBad(V2(0x21, 0x13, kInetBlock)), HasSubstr("transport"));
  EXPECT_THAT(WhyBad(V2(0x21, 0x11, kInetBlock.substr(1))), HasSubstr("too short"));
  EXPECT_THAT(WhyBad(V2(0x21, 0x21, std::string(35, 'a'))), HasSubstr("too short"));
  EXPECT_THAT(WhyBad(V2(0x21, 0x31, std::string(215, 'a'))), HasSubstr("too short"));
  EXPECT_EQ(FeedAll(V2(0x21, 0x21, std::string(36, 'a'))), Result::kDone);
  EXPECT_EQ(FeedAll(V2(0x21, 0x31, std::string(216, 'a'))), Result::kDone);
}

TEST(ProxyV2, ALengthTooShortForItsAddressesIsBadWithoutThem) {
  EXPECT_EQ(FeedAll(V2(0x21, 0x11, "").substr(0, 16)), Result::kBad);
}

TEST(ProxyV2, UnixFieldsMayBeFullOrEmpty) {
  ProxyHeaderParser parser;
  ASSERT_EQ(parser.Feed(V2(0x21, 0x31, std::string(108, 'a') + std::string(108, '\0'))),
            Result::kDone);
  EXPECT_EQ(parser.header().source.unix_path(), std::string(108, 'a'));
  EXPECT_TRUE(parser.header().destination.is_unix());
  EXPECT_EQ(parser.header().destination.unix_path(), "");
}

// --- both: answers last, and nothing breaks it

TEST(ProxyHeaderParser, KeepsItsAnswer) {
  ProxyHeaderParser done;
  ASSERT_EQ(done.Feed("PROXY UNKNOWN\r\n"), Result::kDone);
  EXPECT_EQ(done.Feed("PROXY UNKNOWN\r\nGET /"), Result::kDone);
  EXPECT_EQ(done.header_size(), 15u);
  ProxyHeaderParser bad;
  ASSERT_EQ(bad.Feed("X"), Result::kBad);
  EXPECT_EQ(bad.Feed("PROXY UNKNOWN\r\n"), Result::kBad);
  EXPECT_FALSE(bad.error().ok());
}

// What a parser said in the end, and at which byte it knew.
struct Verdict {
  Result result;
  std::size_t header_size;
  std::string source;
  std::string destination;
  std::string error;
  friend bool operator==(const Verdict&, const Verdict&) = default;
};

Verdict VerdictOf(const ProxyHeaderParser& parser, Result result) {
  return {result, parser.header_size(), parser.header().source.ToString(),
          parser.header().destination.ToString(), std::string(parser.error().message())};
}

TEST(ProxyHeaderParser, AnyBytesInAnySplitGetTheSameVerdict) {
  // why: what a peer sends is arbitrary, and so is how the network cuts it
  std::mt19937 random(20260101);
  const auto below = [&](std::size_t n) { return std::size_t{random()} % n; };
  std::vector<std::string> seeds = {"PROXY UNKNOWN x y\r\n", V2(0x21, 0x11, kInetBlock),
                                    V2(0x20, 0x00, ""), V2(0x21, 0x31, std::string(216, 'p'))};
  for (const RoundTrip& trip : RoundTrips()) {
    seeds.push_back(
        *EncodeProxyHeader(trip.version, {.source = trip.source, .destination = trip.destination}));
  }
  int done = 0;
  int bad = 0;
  for (int round = 0; round < 20'000; round++) {
    std::string data = seeds[below(seeds.size())];
    for (std::size_t changes = below(4); changes > 0; changes--) {
      const std::size_t at = below(data.size() + 1);
      switch (below(4)) {
        case 0:
          data.insert(at, 1, static_cast<char>(below(256)));
          break;
        case 1:
          if (at < data.size()) data[at] = static_cast<char>(below(256));
          break;
        case 2:
          if (at < data.size()) data.erase(at, 1 + below(3));
          break;
        default:
          data.insert(at, data.substr(0, below(data.size() + 1)));
          break;
      }
    }
    ProxyHeaderParser whole;
    const Verdict expected = VerdictOf(whole, whole.Feed(data));
    ProxyHeaderParser split;
    Result result = Result::kNeedMore;
    for (std::size_t size = 0; size < data.size() && result == Result::kNeedMore;) {
      size = std::min(data.size(), size + 1 + below(data.size()));
      result = split.Feed(absl::string_view(data).substr(0, size));
    }
    ASSERT_EQ(VerdictOf(split, result), expected) << "round " << round;
    if (expected.result == Result::kDone) {
      done++;
      ASSERT_LE(expected.header_size, data.size());
      // What follows the header changes nothing.
      ProxyHeaderParser alone;
      ASSERT_EQ(VerdictOf(alone, alone.Feed(data.substr(0, expected.header_size))), expected);
    }
    if (expected.result == Result::kBad) bad++;
  }
  // The test would prove little if it met one kind only.
  EXPECT_GT(done, 1000);
  EXPECT_GT(bad, 1000);
}

}  // namespace
}  // namespace sockbroker::server
