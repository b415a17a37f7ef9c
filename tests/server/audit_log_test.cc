#include "server/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/json_string.h"

namespace sockbroker::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Json(absl::string_view text) {
  std::string out;
  AppendJsonString(text, &out);
  return out;
}

TEST(JsonString, EscapesWhatWouldEndTheStringOrTheLine) {
  EXPECT_EQ(Json("say \"no\"\\\n\t\r\x7f"), R"("say \"no\"\\\n\t\u000d\u007f")");
  EXPECT_EQ(Json(absl::string_view("a\0b", 3)), R"("a\u0000b")");
}

TEST(JsonString, KeepsUtf8AndReplacesWhatIsNot) {
  // why: names and paths are bytes from outside; one bad byte must not make a line no JSON
  EXPECT_EQ(Json("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x94\x8c"), "\"grüß € 🔌\"");
  EXPECT_EQ(Json("a\xff"
                 "b"),
            "\"a\xef\xbf\xbd"
            "b\"");
  EXPECT_EQ(Json("\xc3"), "\"\xef\xbf\xbd\"");                                  // cut short
  EXPECT_EQ(Json("\xc0\xaf"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");                  // overlong
  EXPECT_EQ(Json("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");  // surrogate
}

TEST(AuditLog, WritesOnlyWhatIsKnown) {
  EXPECT_EQ(FormatAuditEvent({.kind = AuditEvent::Kind::kOpen,
                              .rpc = "OpenConnection",
                              .principal = "unix",
                              .handle = "\x01\xab",
                              .requested = "example.org:443",
                              .peer = "192.0.2.7:443"},
                             absl::FromUnixMillis(1'767'323'045'678)),
            R"({"time":"2026-01-02T03:04:05.678Z","audit":"open","object":"connection",)"
            R"("rpc":"OpenConnection","principal":"unix","handle":"01ab",)"
            R"("requested":"example.org:443","peer":"192.0.2.7:443"})");
}

TEST(AuditLog, SaysOfACloseWhyAndHowMuch) {
  const std::string line = FormatAuditEvent({.kind = AuditEvent::Kind::kClose,
                                             .reason = "PEER_RESET",
                                             .os_errno = 104,
                                             .bytes_read = 0,
                                             .bytes_written = uint64_t{1} << 40,
                                             .lifetime = absl::Milliseconds(1500)},
                                            absl::UnixEpoch());
  EXPECT_THAT(line, HasSubstr(R"("reason":"PEER_RESET","errno":104,"bytes_read":0,)"
                              R"("bytes_written":1099511627776,"lifetime_ms":1500})"));
}

TEST(AuditLog, GivesEachLineToItsSink) {
  std::vector<std::string> lines;
  const AuditLog audit([&](const std::string& line) { lines.push_back(line); });
  audit.Record({.kind = AuditEvent::Kind::kRefusal, .object = "server", .message = "two\nlines"});
  EXPECT_THAT(
      lines,
      ElementsAre(HasSubstr(R"("audit":"refusal","object":"server","message":"two\nlines"})")));
}

}  // namespace
}  // namespace sockbroker::server
