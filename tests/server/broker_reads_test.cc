// Reading through the broker: asyncio's reads, offsets, retries, cancellation.
#include <string>

#include "tests/server/broker_fixture.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;

class BrokerReads : public BrokerFixture {
 protected:
  v1::ReadRequest Request(const std::string& handle, int64_t n) {
    v1::ReadRequest request;
    request.set_handle(handle);
    request.set_n(n);
    return request;
  }
  grpc::Status TryRead(const v1::ReadRequest& request, v1::ReadResponse* response) {
    return Do(&Stub::Read, request, response);
  }
};

TEST_F(BrokerReads, AConnectionIsOpenedWrittenReadAndClosed) {
  auto [handle, peer] = Connect();
  const v1::WriteResponse written = Write(handle, "PING\r\n");
  EXPECT_EQ(written.write_offset(), 6u);
  EXPECT_EQ(peer.Receive(6), "PING\r\n");
  peer.Send("+PONG\r\n");
  const v1::ReadResponse line = ReadLine(handle);
  EXPECT_EQ(line.data(), "+PONG\r\n");
  EXPECT_EQ(line.offset(), 0u);
  EXPECT_FALSE(line.eof());
  EXPECT_EQ(line.outcome(), v1::READ_OUTCOME_COMPLETE);
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "");
}

}  // namespace
}  // namespace sockbroker::server
