// Other programs as peers: Python's asyncio on either side, socat and nginx.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/testing/co_test.h"
#include "streams/testing/idle.h"
#include "tests/streams/child_process.h"
#include "tests/streams/sockets.h"

namespace sockbroker::streams {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kSocat[] = "/usr/bin/socat";
constexpr char kNginx[] = "/usr/sbin/nginx";

// A peer that isn't installed is not tested.
class AsyncioTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Installed(kPython)) GTEST_SKIP() << kPython << " is not installed";
  }
};
class SocatTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Installed(kSocat)) GTEST_SKIP() << kSocat << " is not installed";
  }
};
class NginxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!Installed(kNginx)) GTEST_SKIP() << kNginx << " is not installed";
  }
};

// Bytes of every value, and longer than every buffer on the way.
std::string Payload() {
  std::string data(3 << 20, '\0');
  uint32_t state = 7;
  for (char& byte : data) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return data;
}
// The same in Python.
constexpr char kPayload[] = R"(
def payload():
    data, state = bytearray(3 << 20), 7
    for i in range(len(data)):
        state = (state * 1664525 + 1013904223) & 0xffffffff
        data[i] = state >> 24
    return bytes(data)
)";

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

// Sends the payload, ends its direction, and expects it all back.
Task<void> ExpectEchoedPayload(Connection connection) {
  const std::string data = Payload();
  TaskHandle<absl::StatusOr<absl::Cord>> reading = CreateTask(connection.reader.ReadAll());
  for (std::size_t at = 0; at < data.size(); at += 50'000) {
    EXPECT_THAT(connection.writer.Write(data.substr(at, 50'000)), IsOk());
    EXPECT_THAT(co_await connection.writer.Drain(), IsOk());
  }
  EXPECT_THAT(connection.writer.WriteEof(), IsOk());
  absl::StatusOr<absl::Cord> echoed = co_await reading.Join();
  CO_ASSERT_OK(echoed);
  EXPECT_TRUE(*echoed == data);
  connection.writer.Close();
  EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
}

// --- asyncio as the server

// `handler`: the body of client_connected_cb(reader, writer). Prints its port, then what the
// handler prints.
std::vector<std::string> AsyncioServer(const std::string& handler, const std::string& path = "") {
  return {kPython, "-c",
          absl::StrCat(kPayload, R"(
import asyncio, socket, struct, sys
def say(*words):
    print(*words, flush=True)
async def handle(reader, writer):
)",
                       handler, R"(
async def main():
    if sys.argv[1]:
        server = await asyncio.start_unix_server(handle, sys.argv[1])
        say('ready')
    else:
        server = await asyncio.start_server(handle, '127.0.0.1', 0)
        say(server.sockets[0].getsockname()[1])
    await server.serve_forever()
asyncio.run(main())
)"),
          path};
}

constexpr char kEchoHandler[] = R"(
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
)";

// The number that a server prints on a line when it is ready.
Task<int> PortOf(ChildProcess* server) {
  absl::StatusOr<absl::Cord> line = co_await server->output().ReadLine();
  int port = 0;
  EXPECT_TRUE(line.ok() && absl::SimpleAtoi(std::string(*line), &port));
  co_return port;
}

CO_TEST_REAL_F(AsyncioTest, AnAsyncioServerEchoesByteForByteAndSeesTheHalfClose) {
  ChildProcess server(AsyncioServer(kEchoHandler));
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", co_await PortOf(&server));
  CO_ASSERT_OK(connection);
  co_await ExpectEchoedPayload(*std::move(connection));
}

CO_TEST_REAL_F(AsyncioTest, AnAsyncioServerOnAUnixSocketEchoesByteForByte) {
  const TempDir directory;
  ChildProcess server(AsyncioServer(kEchoHandler, directory.File("s")));
  EXPECT_THAT(co_await server.output().ReadLine(), IsOkAndHolds("ready\n"));
  absl::StatusOr<Connection> connection = co_await OpenUnixConnection(directory.File("s"));
  CO_ASSERT_OK(connection);
  co_await ExpectEchoedPayload(*std::move(connection));
}

// Rows: 183
CO_TEST_REAL_F(AsyncioTest, AnAsyncioServerThatHalfClosesStillHearsEverything) {
  ChildProcess server(AsyncioServer(R"(
    writer.write(b'greeting')
    writer.write_eof()
    say(await reader.read() == payload())
    writer.close()
)"));
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", co_await PortOf(&server));
  CO_ASSERT_OK(connection);
  EXPECT_THAT(co_await connection->reader.ReadAll(), IsOkAndHolds("greeting"));
  EXPECT_FALSE(connection->writer.IsClosing());
  EXPECT_THAT(connection->writer.Write(Payload()), IsOk());
  EXPECT_THAT(connection->writer.WriteEof(), IsOk());
  EXPECT_THAT(co_await server.output().ReadLine(), IsOkAndHolds("True\n"));
  connection->writer.Close();
  EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
}

constexpr char kReset[] = R"(
    writer.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    writer.transport.abort()
)";

// Rows: 131
CO_TEST_REAL_F(AsyncioTest, AnAsyncioServerThatResetsIsReadToItsLastByteFirst) {
  ChildProcess server(AsyncioServer(absl::StrCat(R"(
    writer.write(b'tail')
    await reader.readexactly(2)
)",
                                                 kReset)));
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", co_await PortOf(&server));
  CO_ASSERT_OK(connection);
  EXPECT_THAT(connection->writer.Write("go"), IsOk());
  EXPECT_THAT(co_await connection->writer.WaitClosed(), HasErrno(ECONNRESET));
  EXPECT_THAT(co_await connection->reader.ReadExactly(4), IsOkAndHolds("tail"));
  EXPECT_THAT(co_await connection->reader.Read(1), HasErrno(ECONNRESET));
}

// Rows: 191
CO_TEST_REAL_F(AsyncioTest, AnAsyncioServerSeesAnAbortAsAReset) {
  ChildProcess server(AsyncioServer(R"(
    say('accepted')
    try:
        say(await reader.read())
    except ConnectionResetError:
        say('reset')
)"));
  absl::StatusOr<Connection> connection =
      co_await OpenConnection("127.0.0.1", co_await PortOf(&server));
  CO_ASSERT_OK(connection);
  EXPECT_THAT(co_await server.output().ReadLine(), IsOkAndHolds("accepted\n"));
  connection->writer.Abort();
  EXPECT_THAT(co_await server.output().ReadLine(), IsOkAndHolds("reset\n"));
}

// --- asyncio as the client

// `body` runs with reader and writer; the program fails when it raises.
std::vector<std::string> AsyncioClient(const std::string& body, const SocketAddress& server) {
  return {kPython, "-c",
          absl::StrCat(kPayload, R"(
import asyncio, socket, struct, sys
async def main():
    if sys.argv[2]:
        reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    else:
        reader, writer = await asyncio.open_unix_connection(sys.argv[1])
)",
                       body, R"(
asyncio.run(main())
)"),
          server.is_unix() ? server.unix_path() : server.host(),
          server.is_unix() ? "" : absl::StrCat(server.port())};
}

constexpr char kExpectEchoedPayload[] = R"(
    data = payload()
    reading = asyncio.create_task(reader.read())
    for at in range(0, len(data), 50000):
        writer.write(data[at:at + 50000])
        await writer.drain()
    writer.write_eof()
    assert await reading == data
    writer.close()
    await writer.wait_closed()
)";

CO_TEST_REAL_F(AsyncioTest, AnAsyncioClientIsEchoedByteForByteAndMayHalfClose) {
  absl::StatusOr<Server> server = co_await StartServer(Echo, "127.0.0.1", 0);
  CO_ASSERT_OK(server);
  ChildProcess client(AsyncioClient(kExpectEchoedPayload, server->sockets()[0]));
  EXPECT_EQ(co_await client.Exit(), 0);
  EXPECT_EQ(server->accepted_total(), 1u);
}

CO_TEST_REAL_F(AsyncioTest, AnAsyncioClientOnAUnixSocketIsEchoedByteForByte) {
  const TempDir directory;
  absl::StatusOr<Server> server = co_await StartUnixServer(Echo, directory.File("s"));
  CO_ASSERT_OK(server);
  ChildProcess client(AsyncioClient(kExpectEchoedPayload, server->sockets()[0]));
  EXPECT_EQ(co_await client.Exit(), 0);
}

StartServerOptions OnDemand() {
  StartServerOptions options;
  options.accept = AcceptMode::kOnDemand;
  return options;
}

// Rows: 131
CO_TEST_REAL_F(AsyncioTest, AnAsyncioClientThatResetsIsReadToItsLastByteFirst) {
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, OnDemand());
  CO_ASSERT_OK(server);
  ChildProcess client(AsyncioClient(absl::StrCat(R"(
    writer.write(b'tail')
)",
                                                 kReset),
                                    server->sockets()[0]));
  absl::StatusOr<Connection> connection = co_await server->Accept();
  CO_ASSERT_OK(connection);
  EXPECT_EQ(co_await client.Exit(), 0);
  EXPECT_THAT(co_await connection->reader.ReadExactly(4), IsOkAndHolds("tail"));
  EXPECT_THAT(co_await connection->reader.Read(1), HasErrno(ECONNRESET));
}

// Rows: 110
CO_TEST_REAL_F(AsyncioTest, AnAsyncioClientInTheBacklogOfAClosedServerIsReset) {
  absl::StatusOr<Server> server = co_await StartServer(nullptr, "127.0.0.1", 0, OnDemand());
  CO_ASSERT_OK(server);
  ChildProcess client(AsyncioClient(R"(
    print('connected', flush=True)
    try:
        await reader.read()
    except ConnectionResetError:
        print('reset', flush=True)
)",
                                    server->sockets()[0]));
  EXPECT_THAT(co_await client.output().ReadLine(), IsOkAndHolds("connected\n"));
  server->Close();
  EXPECT_THAT(co_await client.output().ReadLine(), IsOkAndHolds("reset\n"));
}

// --- socat

CO_TEST_REAL_F(SocatTest, SocatAsAClientOverTcpAndUnixIsEchoed) {
  const TempDir directory;
  absl::StatusOr<Server> tcp = co_await StartServer(Echo, "127.0.0.1", 0);
  absl::StatusOr<Server> unix_server = co_await StartUnixServer(Echo, directory.File("s"));
  CO_ASSERT_OK(tcp);
  CO_ASSERT_OK(unix_server);
  for (const std::string& target : {absl::StrCat("TCP:", tcp->sockets()[0].ToString()),
                                    absl::StrCat("UNIX-CONNECT:", directory.File("s"))}) {
    ChildProcess socat({kSocat, "-t", "60", "-", target});
    EXPECT_THAT(socat.input().Write("through socat"), IsOk());
    EXPECT_THAT(co_await socat.output().ReadExactly(13), IsOkAndHolds("through socat"));
    EXPECT_THAT(socat.input().WriteEof(), IsOk());
    EXPECT_EQ(co_await socat.Exit(), 0);
  }
}

CO_TEST_REAL_F(SocatTest, SocatAsAServerOnAUnixSocketEchoesByteForByte) {
  const TempDir directory;
  const std::string path = directory.File("s");
  ChildProcess socat({kSocat, "-t", "60", absl::StrCat("UNIX-LISTEN:", path), "EXEC:/bin/cat"});
  absl::StatusOr<Connection> connection;
  // It says nothing when it is ready: connecting does.
  do {
    connection = co_await OpenUnixConnection(path);
  } while (!connection.ok() && !(co_await GetCancelToken()).cancelled());
  CO_ASSERT_OK(connection);
  co_await ExpectEchoedPayload(*std::move(connection));
  EXPECT_EQ(co_await socat.Exit(), 0);
}

// --- nginx

// Fetches `path` twice over one connection: by its length, then to the end.
Task<void> ExpectPage(Connection connection, std::string page) {
  EXPECT_THAT(connection.writer.Write("GET /page HTTP/1.1\r\nHost: test\r\n\r\n"), IsOk());
  absl::StatusOr<absl::Cord> head = co_await connection.reader.ReadUntil("\r\n\r\n");
  CO_ASSERT_OK(head);
  EXPECT_THAT(std::string(*head),
              AllOf(StartsWith("HTTP/1.1 200 OK\r\n"),
                    HasSubstr(absl::StrCat("Content-Length: ", page.size(), "\r\n"))));
  absl::StatusOr<absl::Cord> body = co_await connection.reader.ReadExactly(page.size());
  CO_ASSERT_OK(body);
  EXPECT_TRUE(*body == page);
  EXPECT_THAT(
      connection.writer.Write("GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
      IsOk());
  EXPECT_THAT(co_await connection.reader.ReadLine(), IsOkAndHolds("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_THAT(co_await connection.reader.ReadAll(), IsOk());
  EXPECT_TRUE(connection.reader.AtEof());
}

CO_TEST_REAL_F(NginxTest, NginxServesPagesOverTcpAndOverAUnixSocket) {
  const TempDir directory;
  const std::string page = Payload();
  std::ofstream(directory.File("page"), std::ios::binary) << page;
  // nginx takes over listening sockets that it is handed: no port has to be chosen, and whoever
  // connects before it is ready waits in the backlog.
  const Descriptor tcp = ListeningSocket("127.0.0.1");
  const SocketAddress unix_address = *SocketAddress::FromUnixPath(directory.File("socket"));
  const Descriptor unix_socket(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CO_ASSERT_EQ(bind(unix_socket.get(), unix_address.data(), unix_address.size()), 0);
  CO_ASSERT_EQ(listen(unix_socket.get(), 16), 0);
  const std::string& here = directory.path();
  std::ofstream(directory.File("nginx.conf"))
      << absl::StrCat(R"(
daemon off;
worker_processes 1;
user root root;
error_log stderr error;
pid )",
                      here, R"(/pid;
events {}
http {
  access_log off;
  client_body_temp_path )",
                      here, R"(/body;
  proxy_temp_path )",
                      here, R"(/proxy;
  fastcgi_temp_path )",
                      here, R"(/fastcgi;
  uwsgi_temp_path )",
                      here, R"(/uwsgi;
  scgi_temp_path )",
                      here, R"(/scgi;
  server {
    listen )",
                      SocketAddress::OfLocal(tcp.get()).ToString(), R"(;
    listen unix:)",
                      unix_address.unix_path(), R"(;
    root )",
                      here, R"(;
  }
}
)");
  ChildProcess nginx({kNginx, "-e", "stderr", "-p", here, "-c", directory.File("nginx.conf")},
                     {.environment = {"NGINX=3;4;"}, .inherited = {tcp.get(), unix_socket.get()}});
  absl::StatusOr<Connection> over_tcp =
      co_await OpenConnection("127.0.0.1", SocketAddress::OfLocal(tcp.get()).port());
  CO_ASSERT_OK(over_tcp);
  co_await ExpectPage(*std::move(over_tcp), page);
  absl::StatusOr<Connection> over_unix = co_await OpenUnixConnection(directory.File("socket"));
  CO_ASSERT_OK(over_unix);
  co_await ExpectPage(*std::move(over_unix), page);
}

}  // namespace
}  // namespace sockbroker::streams
