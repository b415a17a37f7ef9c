// The examples, run as a reader of the manual would run them.
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "tests/streams/child_process.h"

namespace sockbroker::streams {
namespace {

using ::testing::MatchesRegex;

// The programs are built beside the directory of the tests.
std::string Example(const std::string& name) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path() / ("example_" + name)).string();
}

// "... on 127.0.0.1:PORT": what an example says when it is ready.
Task<std::string> PortOf(ChildProcess* server) {
  absl::StatusOr<absl::Cord> line = co_await server->output().ReadLine();
  EXPECT_THAT(line, IsOk());
  const std::string text(line.value_or(absl::Cord()));
  EXPECT_THAT(text, MatchesRegex(".* on 127.0.0.1:[0-9]+\n"));
  co_return std::string(absl::StripSuffix(text.substr(text.rfind(':') + 1), "\n"));
}

CO_TEST_REAL(ExamplesTest, TheEchoClientIsAnsweredByTheEchoServer) {
  ChildProcess server({Example("echo_server"), "0"});
  const std::string port = co_await PortOf(&server);
  for (const char* text : {"hello", "once more"}) {
    ChildProcess client({Example("echo_client"), "localhost", port, text});
    EXPECT_THAT(co_await client.output().ReadAll(), IsOkAndHolds(absl::StrCat(text, "\n")));
    EXPECT_EQ(co_await client.Exit(), 0);
  }
}

CO_TEST_REAL(ExamplesTest, TheEchoClientSaysWhyItCouldNotConnect) {
  ChildProcess client({Example("echo_client"), "", "80", "hello"});
  EXPECT_EQ(co_await client.Exit(), 1);
}

CO_TEST_REAL(ExamplesTest, AChatGuestHearsWhatTheOthersSay) {
  ChildProcess server({Example("chat_server"), "0"});
  const std::string port = co_await PortOf(&server);
  absl::StatusOr<Connection> anna = co_await OpenConnection("127.0.0.1", port);
  absl::StatusOr<Connection> bert = co_await OpenConnection("127.0.0.1", port);
  CO_ASSERT_OK(anna);
  CO_ASSERT_OK(bert);
  const std::string annas_name = anna->writer.sockname().ToString();
  const std::string berts_name = bert->writer.sockname().ToString();
  // Guests are served in the order of their coming: when Bert is heard, Anna has long been there.
  EXPECT_THAT(bert->writer.Write("hi\n"), IsOk());
  EXPECT_THAT(co_await anna->reader.ReadLine(), IsOkAndHolds(berts_name + ": hi\n"));
  EXPECT_THAT(anna->writer.Write("hello\n"), IsOk());
  EXPECT_THAT(co_await bert->reader.ReadLine(), IsOkAndHolds(annas_name + ": hello\n"));
}

Task<void> AnswerHttp(StreamReader reader, StreamWriter writer) {
  EXPECT_THAT(co_await reader.ReadUntil("\r\n\r\n"), IsOk());
  writer.Write("HTTP/1.0 204 No Content\r\nServer: test\r\n\r\n").IgnoreError();
  writer.Close();
}

CO_TEST_REAL(ExamplesTest, FetchHttpHeadersPrintsEachHeader) {
  absl::StatusOr<Server> server = co_await StartServer(AnswerHttp, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  ChildProcess client(
      {Example("fetch_http_headers"), "127.0.0.1", absl::StrCat(server->sockets()[0].port())});
  EXPECT_THAT(co_await client.output().ReadAll(),
              IsOkAndHolds("HTTP header> HTTP/1.0 204 No Content\r\nHTTP header> Server: test\r\n"
                           "HTTP header> \r\n"));
  EXPECT_EQ(co_await client.Exit(), 0);
}

}  // namespace
}  // namespace sockbroker::streams
