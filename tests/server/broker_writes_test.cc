// Writing through the broker: offsets, retries, flow control, the end of the direction.
#include <string>

#include "tests/server/broker_fixture.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;
using Async = class v1::SocketBroker::Stub::async;

class BrokerWrites : public BrokerFixture {
 protected:
  static v1::WriteRequest Request(const std::string& handle, const std::string& data) {
    v1::WriteRequest request;
    request.set_handle(handle);
    request.set_data(data);
    return request;
  }
  static v1::WriteRequest At(const std::string& handle, const std::string& data, uint64_t offset,
                             const std::string& writer = "writer-1") {
    v1::WriteRequest request = Request(handle, data);
    request.set_offset(offset);
    request.set_writer(writer);
    return request;
  }
  grpc::Status TryWrite(const v1::WriteRequest& request, v1::WriteResponse* response = nullptr) {
    v1::WriteResponse ignored;
    return Do(&Stub::Write, request, response == nullptr ? &ignored : response);
  }
  grpc::Status TryEof(const std::string& handle) {
    v1::WriteEofRequest request;
    request.set_handle(handle);
    v1::WriteEofResponse response;
    return Do(&Stub::WriteEof, request, &response);
  }
};

TEST_F(BrokerWrites, ARetriedWriteIsSentOnce) {
  auto [handle, peer] = Connect();
  v1::WriteResponse response;
  EXPECT_TRUE(TryWrite(At(handle, "abc", 0), &response).ok());
  EXPECT_EQ(response.write_offset(), 3u);
  EXPECT_TRUE(TryWrite(At(handle, "abc", 0), &response).ok());
  EXPECT_EQ(response.write_offset(), 3u);
  // What goes beyond is sent.
  EXPECT_TRUE(TryWrite(At(handle, "bcdef", 1), &response).ok());
  EXPECT_EQ(response.write_offset(), 6u);
  // All of it long ago.
  EXPECT_TRUE(TryWrite(At(handle, "b", 1), &response).ok());
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "abcdef");
}

TEST_F(BrokerWrites, AGapIsRefusedWithTheOneValidOffset) {
  auto [handle, peer] = Connect();
  Write(handle, "abc");
  const grpc::Status status = TryWrite(At(handle, "x", 4));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(DetailOf(status).reason(), v1::OFFSET_OUT_OF_RANGE);
  EXPECT_EQ(DetailOf(status).offsets().write_offset(), 3u);
}

TEST_F(BrokerWrites, AnotherWritersBytesAreNeverTrimmed) {
  auto [handle, peer] = Connect();
  EXPECT_TRUE(TryWrite(At(handle, "abc", 0, "writer-1")).ok());
  EXPECT_TRUE(TryWrite(At(handle, "def", 3, "writer-2")).ok());
  // The first one's run ended when the second's began.
  for (const uint64_t offset : {uint64_t{0}, uint64_t{2}, uint64_t{3}, uint64_t{5}}) {
    const grpc::Status status = TryWrite(At(handle, "abc", offset, "writer-1"));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << offset;
    EXPECT_EQ(DetailOf(status).reason(), v1::OTHER_WRITER);
    EXPECT_EQ(DetailOf(status).offsets().write_offset(), 6u);
  }
  // Nor across the beginning of its own.
  EXPECT_EQ(TryWrite(At(handle, "cdef", 2, "writer-2")).error_code(), grpc::StatusCode::ABORTED);
  // A write without offset ends a run, too.
  Write(handle, "ghi");
  EXPECT_EQ(TryWrite(At(handle, "def", 3, "writer-2")).error_code(), grpc::StatusCode::ABORTED);
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "abcdefghi");
}

TEST_F(BrokerWrites, AnEndIsRepeatedLikeBytes) {
  auto [handle, peer] = Connect();
  v1::WriteRequest request = At(handle, "bye", 0);
  request.set_eof(true);
  EXPECT_TRUE(TryWrite(request).ok());
  EXPECT_TRUE(TryWrite(request).ok());
  EXPECT_TRUE(TryEof(handle).ok());
  EXPECT_EQ(peer.ReceiveAll(), "bye");
  const grpc::Status status = TryWrite(At(handle, "x", 3));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailOf(status).reason(), v1::WRITE_AFTER_EOF);
  // Reading goes on.
  peer.Send("answer\n");
  EXPECT_EQ(ReadLine(handle).data(), "answer\n");
}

TEST_F(BrokerWrites, AnEndCannotComeBeforeWhatFollowsIt) {
  auto [handle, peer] = Connect();
  EXPECT_TRUE(TryWrite(At(handle, "abcdef", 0)).ok());
  v1::WriteRequest request = At(handle, "abc", 0);
  request.set_eof(true);
  EXPECT_EQ(TryWrite(request).error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_FALSE(Get(handle).write_eof());
}

TEST_F(BrokerWrites, LinesGoOutAsOneWrite) {
  auto [handle, peer] = Connect();
  v1::WriteLinesRequest request;
  request.set_handle(handle);
  for (const char* line : {"one\n", "", "two\n", ""}) request.add_lines(line);
  request.set_eof(true);
  v1::WriteResponse response;
  EXPECT_TRUE(Do(&Stub::WriteLines, request, &response).ok());
  EXPECT_EQ(response.write_offset(), 8u);
  EXPECT_EQ(peer.ReceiveAll(), "one\ntwo\n");
}

TEST_F(BrokerWrites, APeerThatNeverReadsFillsTheBufferAndNoFurther) {
  auto [handle, peer] =
      Connect([](auto* r) { r->mutable_options()->mutable_socket()->set_send_buffer(65536); });
  const std::string megabyte(1 << 20, 'x');
  grpc::Status status;
  uint64_t accepted = 0;
  for (int i = 0; i < 64 && status.ok(); i++) {
    v1::WriteResponse response;
    status = TryWrite(At(handle, megabyte, accepted), &response);
    if (status.ok()) accepted = response.write_offset();
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const v1::ErrorDetail detail = DetailOf(status);
  EXPECT_EQ(detail.reason(), v1::WRITE_BUFFER_FULL);
  EXPECT_EQ(detail.limit_value(), 8u << 20);
  EXPECT_TRUE(detail.retryable());
  EXPECT_TRUE(detail.has_retry_after());
  // Whole or not at all.
  EXPECT_EQ(detail.offsets().write_offset(), accepted);
  EXPECT_LE(Get(handle).write_buffered(), 8u << 20);

  // Drain waits for the peer, and a caller that goes away meanwhile changes nothing.
  v1::DrainRequest drain;
  drain.set_handle(handle);
  auto waiting = Begin<v1::DrainRequest, v1::DrainResponse>(&Async::Drain, drain);
  auto cancelled = Begin<v1::DrainRequest, v1::DrainResponse>(&Async::Drain, drain);
  cancelled->context.TryCancel();
  EXPECT_EQ(cancelled->Wait().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_FALSE(waiting->done.load());
  EXPECT_EQ(peer.Receive(accepted), std::string(accepted, 'x'));
  EXPECT_TRUE(waiting->Wait().ok());
  EXPECT_EQ(waiting->response.write_offset(), accepted);
}

TEST_F(BrokerWrites, ADrainThatWaitsGetsThePeersReset) {
  auto [handle, peer] =
      Connect([](auto* r) { r->mutable_options()->mutable_socket()->set_send_buffer(65536); });
  const std::string megabyte(1 << 20, 'x');
  for (int i = 0; i < 7; i++) Write(handle, megabyte);
  v1::DrainRequest drain;
  drain.set_handle(handle);
  auto waiting = Begin<v1::DrainRequest, v1::DrainResponse>(&Async::Drain, drain);
  Settle();
  peer.Reset();
  const grpc::Status status = waiting->Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const v1::ErrorDetail detail = DetailOf(status);
  EXPECT_EQ(detail.reason(), v1::CONNECTION_RESET);
  EXPECT_EQ(detail.offsets().write_offset(), 7u << 20);
  EXPECT_LT(detail.offsets().flushed(), 7u << 20);
}

TEST_F(BrokerWrites, AWriteToALostConnectionSaysWhereItStood) {
  auto [handle, peer] = Connect();
  Write(handle, "abc");
  peer.Receive(3);
  peer.Reset();
  EVENTUALLY(Get(handle).state() == v1::CONNECTION_STATE_CLOSED);
  const grpc::Status status = TryWrite(Request(handle, "d"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const v1::ErrorDetail detail = DetailOf(status);
  EXPECT_EQ(detail.reason(), v1::CLOSED);
  EXPECT_EQ(detail.close_reason(), v1::CONNECTION_RESET);
  EXPECT_EQ(detail.offsets().write_offset(), 3u);
  EXPECT_EQ(detail.offsets().flushed(), 3u);
}

TEST_F(BrokerWrites, NothingIsSentInClearWhereTlsIsAskedFor) {
  auto [handle, peer] = Connect();
  v1::WriteRequest request = Request(handle, "secret");
  request.set_require_tls(true);
  EXPECT_EQ(DetailOf(TryWrite(request)).reason(), v1::NOT_TLS);
  Close(handle);
  EXPECT_EQ(peer.ReceiveAll(), "");
}

TEST_F(BrokerWrites, FieldsOutOfTheirRangeAreNamed) {
  auto [handle, peer] = Connect();
  EXPECT_EQ(DetailOf(TryWrite(Request(handle, std::string((1 << 20) + 1, 'x')))).field(), "data");
  for (const char* writer : {"", "short", "seventeen-bytes-x"}) {
    EXPECT_EQ(DetailOf(TryWrite(At(handle, "x", 0, writer))).field(), "writer") << writer;
  }
  v1::WriteLinesRequest lines;
  lines.set_handle(handle);
  for (int i = 0; i < 65537; i++) lines.add_lines("");
  v1::WriteResponse response;
  EXPECT_EQ(DetailOf(Do(&Stub::WriteLines, lines, &response)).field(), "lines");
  v1::WriteRequest stale = Request(handle, "x");
  stale.set_epoch(7);
  EXPECT_EQ(DetailOf(TryWrite(stale)).reason(), v1::STALE_EPOCH);
  // Empty is allowed.
  EXPECT_TRUE(TryWrite(Request(handle, "")).ok());
  EXPECT_EQ(Get(handle).offsets().write_offset(), 0u);
}

TEST_F(BrokerWrites, WriteAndDrainInOneRoundTrip) {
  auto [handle, peer] = Connect();
  v1::WriteRequest request = Request(handle, "data");
  request.set_drain(true);
  v1::WriteResponse response;
  EXPECT_TRUE(TryWrite(request, &response).ok());
  EXPECT_EQ(response.flushed(), 4u);
  v1::CanWriteEofRequest can;
  can.set_handle(handle);
  v1::CanWriteEofResponse answer;
  EXPECT_TRUE(Do(&Stub::CanWriteEof, can, &answer).ok());
  EXPECT_TRUE(answer.can_write_eof());
}

}  // namespace
}  // namespace sockbroker::server
