#include "client/json_output.h"

#include <gtest/gtest.h>

#include "sockbroker/v1/connection.pb.h"

namespace sockbroker::client {
namespace {

TEST(JsonOutput, AStringIsAlwaysValidJsonAndUtf8) {
  EXPECT_EQ(JsonString("a\"\\\n\x01\x7f"), "\"a\\\"\\\\\\n\\u0001\\u007f\"");
  EXPECT_EQ(JsonString("é€😀"), "\"é€😀\"");
  // A lone lead byte, an overlong slash, a surrogate, beyond Unicode, a sequence cut short.
  EXPECT_EQ(JsonString("\xff|\xc0\xaf|\xed\xa0\x80|\xf5|\xe2\x82"),
            "\"\\ufffd|\\ufffd\\ufffd|\\ufffd\\ufffd\\ufffd|\\ufffd|\\ufffd\\ufffd\"");
}

TEST(JsonOutput, AMessageIsWrittenAsScriptsWantIt) {
  v1::Connection connection;
  connection.set_handle(std::string("\x9f\x86\x00", 3));
  connection.set_state(v1::CONNECTION_STATE_OPEN);
  connection.mutable_peer()->mutable_tcp()->set_host("::1");
  connection.mutable_peer()->mutable_tcp()->set_port(80);
  connection.mutable_local()->set_unix(std::string("\0abstract", 9));
  connection.mutable_offsets()->set_received(uint64_t{1} << 60);
  connection.mutable_opened_at()->set_seconds(86400);
  connection.mutable_opened_at()->set_nanos(5'000'000);
  connection.mutable_options()->mutable_lease()->set_nanos(500'000'000);
  (*connection.mutable_options()->mutable_labels())["job"] = "42";
  (*connection.mutable_options()->mutable_labels())["a"] = "";
  connection.set_close_reason(v1::CONNECTION_RESET);
  const std::string json = MessageJson(connection);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  for (const char* part :
       {R"("handle":"9f8600")", R"("state":"open")", R"("peer":{"tcp":{"host":"::1","port":80}})",
        R"("local":{"unix":"@abstract"})", R"("received":1152921504606846976)",
        R"("opened_at":"1970-01-02T00:00:00.005000Z")", R"("lease":0.5)",
        R"("labels":{"a":"","job":"42"})", R"("close_reason":"connection_reset")",
        R"("at_eof":false)", R"("bound":false)"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << " in " << json;
  }
  EXPECT_EQ(json.find("closed_at"), std::string::npos) << "absent messages are left out";
  EXPECT_EQ(json.find("\"limit\""), std::string::npos) << "absent optional fields are left out";
}

TEST(JsonOutput, AnEnumsValueFromTheFutureIsItsNumber) {
  v1::Connection connection;
  connection.set_state(static_cast<v1::ConnectionState>(77));
  EXPECT_NE(MessageJson(connection).find(R"("state":77)"), std::string::npos);
}

TEST(JsonOutput, ALineKeepsTheOrderOfItsFields) {
  JsonLine line;
  line.Add("event", "x").Add("n", 5).Add("yes", true).AddJson("list", "[]");
  EXPECT_EQ(line.Text(), R"({"event":"x","n":5,"yes":true,"list":[]})");
}

}  // namespace
}  // namespace sockbroker::client
