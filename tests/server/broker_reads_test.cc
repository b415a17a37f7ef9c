// Reading through the broker: asyncio's reads, offsets, retries, cancellation.
#include <string>

#include "tests/server/broker_fixture.h"

namespace sockbroker::server {
namespace {

using Stub = v1::SocketBroker::Stub;
using Async = class v1::SocketBroker::Stub::async;
using testing::AllOf;
using testing::Property;

class BrokerReads : public BrokerFixture {
 protected:
  static v1::ReadRequest Request(const std::string& handle, int64_t n) {
    v1::ReadRequest request;
    request.set_handle(handle);
    request.set_n(n);
    return request;
  }
  static v1::ReadRequest At(const std::string& handle, int64_t n, uint64_t offset) {
    v1::ReadRequest request = Request(handle, n);
    request.set_offset(offset);
    return request;
  }
  v1::ReadResponse MustRead(const v1::ReadRequest& request) {
    v1::ReadResponse response;
    const grpc::Status status = Do(&Stub::Read, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status TryRead(const v1::ReadRequest& request) {
    v1::ReadResponse response;
    return Do(&Stub::Read, request, &response);
  }
  std::shared_ptr<Pending<v1::ReadResponse>> BeginRead(const v1::ReadRequest& request) {
    return Begin<v1::ReadRequest, v1::ReadResponse>(&Async::Read, request);
  }
  // Until so many bytes have arrived at the broker.
  void AwaitReceived(const std::string& handle, uint64_t size) {
    EVENTUALLY(Get(handle).offsets().received() >= size);
  }
};

TEST_F(BrokerReads, AConnectionIsOpenedWrittenReadAndClosed) {
  auto [handle, peer] = Connect();
  EXPECT_EQ(Write(handle, "PING\r\n").write_offset(), 6u);
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

TEST_F(BrokerReads, ReadGivesAtMostNBytesAndCountsOn) {
  auto [handle, peer] = Connect();
  peer.Send("abcdef");
  AwaitReceived(handle, 6);
  EXPECT_EQ(Read(handle, 4).data(), "abcd");
  const v1::ReadResponse rest = Read(handle, 100);
  EXPECT_EQ(rest.data(), "ef");
  EXPECT_EQ(rest.offset(), 4u);
}

TEST_F(BrokerReads, ZeroBytesAreReadAtOnce) {
  auto [handle, peer] = Connect();
  const v1::ReadResponse nothing = Read(handle, 0);
  EXPECT_EQ(nothing.data(), "");
  EXPECT_FALSE(nothing.eof());
  EXPECT_EQ(nothing.outcome(), v1::READ_OUTCOME_COMPLETE);
}

TEST_F(BrokerReads, APeerThatSendsOneByteAtATimeIsReadWhole) {
  auto [handle, peer] = Connect();
  v1::ReadExactlyRequest request;
  request.set_handle(handle);
  request.set_n(5);
  auto pending = Begin<v1::ReadExactlyRequest, v1::ReadResponse>(&Async::ReadExactly, request);
  for (const char c : std::string("hello")) {
    peer.Send(std::string(1, c));
    Settle();
  }
  EXPECT_TRUE(pending->Wait().ok());
  EXPECT_EQ(pending->response.data(), "hello");
}

TEST_F(BrokerReads, TheEndOfThePeerShowsInEveryKindOfRead) {
  auto [handle, peer] = Connect();
  peer.Send("abcdef");
  peer.ShutdownWrite();
  v1::ReadResponse response;
  v1::ReadExactlyRequest exactly;
  exactly.set_handle(handle);
  exactly.set_n(4);
  EXPECT_TRUE(Do(&Stub::ReadExactly, exactly, &response).ok());
  EXPECT_EQ(response.outcome(), v1::READ_OUTCOME_COMPLETE);
  EXPECT_TRUE(Do(&Stub::ReadExactly, exactly, &response).ok());
  EXPECT_EQ(response.data(), "ef");
  EXPECT_EQ(response.outcome(), v1::READ_OUTCOME_INCOMPLETE);
  EXPECT_TRUE(response.eof());
  v1::ReadUntilRequest until;
  until.set_handle(handle);
  EXPECT_TRUE(Do(&Stub::ReadUntil, until, &response).ok());
  EXPECT_EQ(response.outcome(), v1::READ_OUTCOME_INCOMPLETE);
  EXPECT_EQ(response.offset(), 6u);
  EXPECT_EQ(ReadLine(handle).outcome(), v1::READ_OUTCOME_EOF);
  EXPECT_EQ(Read(handle, 1).outcome(), v1::READ_OUTCOME_EOF);
  v1::AtEofRequest at_eof;
  at_eof.set_handle(handle);
  v1::AtEofResponse is;
  EXPECT_TRUE(Do(&Stub::AtEof, at_eof, &is).ok());
  EXPECT_TRUE(is.at_eof());
}

TEST_F(BrokerReads, ReadUntilTakesTheMatchThatEndsFirst) {
  auto [handle, peer] = Connect();
  peer.Send("one;two\r\nthree");
  v1::ReadUntilRequest until;
  until.set_handle(handle);
  until.add_separators("\r\n");
  until.add_separators(";");
  v1::ReadResponse response;
  EXPECT_TRUE(Do(&Stub::ReadUntil, until, &response).ok());
  EXPECT_EQ(response.data(), "one;");
  EXPECT_TRUE(Do(&Stub::ReadUntil, until, &response).ok());
  EXPECT_EQ(response.data(), "two\r\n");
  EXPECT_EQ(response.offset(), 4u);
}

TEST_F(BrokerReads, ALineOverTheLimitStaysAndCanBeSkipped) {
  auto [handle, peer] = Connect([](auto* r) { r->mutable_options()->set_limit(8); });
  peer.Send("0123456789abcdef\nnext\n");
  AwaitReceived(handle, 22);
  v1::ReadLineRequest line;
  line.set_handle(handle);
  v1::ReadResponse response;
  const grpc::Status status = Do(&Stub::ReadLine, line, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const v1::ErrorDetail detail = DetailOf(status);
  EXPECT_EQ(detail.reason(), v1::LIMIT_OVERRUN);
  EXPECT_EQ(detail.offsets().read_offset(), 0u);
  EXPECT_EQ(detail.limit_value(), 8u);
  ASSERT_EQ(detail.consumed(), 16u);
  v1::ReadExactlyRequest skip;
  skip.set_handle(handle);
  skip.set_n(static_cast<int64_t>(detail.consumed()));
  EXPECT_TRUE(Do(&Stub::ReadExactly, skip, &response).ok());
  EXPECT_EQ(ReadLine(handle).data(), "\n");
  EXPECT_EQ(ReadLine(handle).data(), "next\n");
}

// --- kept reads

TEST_F(BrokerReads, AReplyThatWasLostIsReadAgainByItsOffset) {
  auto [handle, peer] = Connect();
  peer.Send("abcdef");
  AwaitReceived(handle, 6);
  EXPECT_EQ(MustRead(At(handle, 4, 0)).data(), "abcd");
  EXPECT_EQ(Get(handle).offsets().read_kept(), 0u);
  const v1::ReadResponse again = MustRead(At(handle, 4, 0));
  EXPECT_EQ(again.data(), "abcd");
  EXPECT_EQ(again.offset(), 0u);
  // In the middle of what is kept, and over its end.
  EXPECT_EQ(MustRead(At(handle, 4, 2)).data(), "cdef");
  EXPECT_EQ(Get(handle).offsets().read_kept(), 2u);
  // At the end: everything has arrived.
  EXPECT_EQ(MustRead(At(handle, 0, 6)).data(), "");
  EXPECT_EQ(Get(handle).offsets().read_kept(), 6u);
}

TEST_F(BrokerReads, AnOffsetOutsideOfWhatIsKeptGivesTheRange) {
  auto [handle, peer] = Connect();
  peer.Send("abcdef");
  AwaitReceived(handle, 6);
  MustRead(At(handle, 3, 0));
  MustRead(At(handle, 2, 3));
  for (const uint64_t offset : {uint64_t{2}, uint64_t{6}, ~uint64_t{0}}) {
    const grpc::Status status = TryRead(At(handle, 1, offset));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE) << offset;
    const v1::ErrorDetail detail = DetailOf(status);
    EXPECT_EQ(detail.reason(), v1::OFFSET_OUT_OF_RANGE);
    EXPECT_EQ(detail.offsets().read_kept(), 3u);
    EXPECT_EQ(detail.offsets().read_offset(), 5u);
  }
  EXPECT_EQ(MustRead(At(handle, 2, 3)).data(), "de");
}

TEST_F(BrokerReads, AReadWithoutOffsetReleasesWhatIsKept) {
  auto [handle, peer] = Connect();
  peer.Send("abcdef");
  AwaitReceived(handle, 6);
  MustRead(At(handle, 3, 0));
  EXPECT_EQ(Read(handle, 3).data(), "def");
  EXPECT_EQ(Get(handle).offsets().read_kept(), 6u);
  EXPECT_EQ(TryRead(At(handle, 1, 0)).error_code(), grpc::StatusCode::OUT_OF_RANGE);
}

TEST_F(BrokerReads, TheEndIsReadAgainToo) {
  auto [handle, peer] = Connect();
  peer.Send("tail");
  peer.Close();
  for (int i = 0; i < 2; i++) {
    v1::ReadLineRequest line;
    line.set_handle(handle);
    line.set_offset(0);
    v1::ReadResponse response;
    EXPECT_TRUE(Do(&Stub::ReadLine, line, &response).ok());
    EXPECT_EQ(response.data(), "tail");
    EXPECT_EQ(response.outcome(), v1::READ_OUTCOME_EOF);
    EXPECT_TRUE(response.eof());
  }
}

// --- who reads

TEST_F(BrokerReads, ASecondReaderThatWouldWaitIsRefused) {
  auto [handle, peer] = Connect();
  auto first = BeginRead(Request(handle, 10));
  AwaitReader(handle);
  const grpc::Status status = TryRead(Request(handle, 10));
  EXPECT_EQ(DetailOf(status).reason(), v1::READ_PENDING);
  EXPECT_TRUE(TryRead(Request(handle, 0)).ok());
  peer.Send("data");
  EXPECT_TRUE(first->Wait().ok());
  EXPECT_EQ(first->response.data(), "data");
}

TEST_F(BrokerReads, ARetryTakesThePlaceOfItsWaitingPredecessor) {
  auto [handle, peer] = Connect();
  v1::ReadRequest request = At(handle, 10, 0);
  request.set_request_id("retry");
  auto first = BeginRead(request);
  Settle();
  auto second = BeginRead(request);
  auto third = BeginRead(request);
  EXPECT_EQ(DetailOf(first->Wait()).reason(), v1::SUPERSEDED);
  EXPECT_EQ(first->status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  // In whichever order the two came, one is left.
  EVENTUALLY(second->done.load() || third->done.load());
  auto& last = second->done.load() ? third : second;
  peer.Send("data");
  EXPECT_TRUE(last->Wait().ok());
  EXPECT_EQ(last->response.data(), "data");
}

TEST_F(BrokerReads, AReadWhoseCallerHasGoneConsumesNothing) {
  auto [handle, peer] = Connect();
  v1::ReadExactlyRequest request;
  request.set_handle(handle);
  request.set_n(6);
  auto pending = Begin<v1::ReadExactlyRequest, v1::ReadResponse>(&Async::ReadExactly, request);
  AwaitReader(handle);
  peer.Send("abc");
  AwaitReceived(handle, 3);
  pending->context.TryCancel();
  EXPECT_EQ(pending->Wait().error_code(), grpc::StatusCode::CANCELLED);
  // Its place is free again, and the bytes are all there.
  AwaitNoReader(handle);
  peer.Send("def");
  v1::ReadResponse response;
  EXPECT_TRUE(Do(&Stub::ReadExactly, request, &response).ok());
  EXPECT_EQ(response.data(), "abcdef");
  EXPECT_EQ(response.offset(), 0u);
}

TEST_F(BrokerReads, BytesThatRaceACancellationAreNeverLost) {
  auto [handle, peer] = Connect();
  std::string received;
  std::string sent;
  for (int i = 0; i < 200; i++) {
    v1::ReadRequest request = At(handle, 100, received.size());
    auto pending = BeginRead(request);
    const std::string part = std::to_string(i) + ",";
    peer.Send(part);
    sent += part;
    pending->context.TryCancel();
    if (pending->Wait().ok()) received += pending->response.data();
  }
  while (received.size() < sent.size()) {
    v1::ReadRequest request = At(handle, 100, received.size());
    // The last cancelled read may still be leaving.
    v1::ReadResponse response;
    EVENTUALLY(Do(&Stub::Read, request, &response).ok());
    if (HasFailure()) return;
    received += response.data();
  }
  EXPECT_EQ(received, sent);
}

TEST_F(BrokerReads, ADeadlineEndsAWaitAndLosesNothing) {
  auto [handle, peer] = Connect();
  v1::ReadResponse response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  EXPECT_EQ(stub().Read(&context, At(handle, 5, 0), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  grpc::ClientContext past;
  past.set_deadline(std::chrono::system_clock::now() - std::chrono::seconds(1));
  EXPECT_EQ(stub().Read(&past, At(handle, 5, 0), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  peer.Send("hello");
  AwaitReceived(handle, 5);
  EVENTUALLY(Do(&Stub::Read, At(handle, 5, 0), &response).ok());
  EXPECT_EQ(response.data(), "hello");
}

// --- the end of a connection

TEST_F(BrokerReads, WhatCameBeforeAResetIsReadableAndThenTheErrorEachTime) {
  auto [handle, peer] = Connect();
  peer.Send("last words");
  AwaitReceived(handle, 10);
  peer.Reset();
  EVENTUALLY(Get(handle).state() == v1::CONNECTION_STATE_CLOSED);
  EXPECT_EQ(MustRead(At(handle, 4, 0)).data(), "last");
  EXPECT_EQ(MustRead(At(handle, 100, 4)).data(), " words");
  for (int i = 0; i < 2; i++) {
    const grpc::Status status = TryRead(At(handle, 100, 10));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
    const v1::ErrorDetail detail = DetailOf(status);
    EXPECT_EQ(detail.reason(), v1::CONNECTION_RESET);
    EXPECT_EQ(detail.os_errno(), ECONNRESET);
    EXPECT_EQ(detail.offsets().read_offset(), 10u);
  }
  EXPECT_EQ(broker().open_connections(), 0u);
}

TEST_F(BrokerReads, AReadThatWaitsWhenItsConnectionIsClosedEndsAsAtEof) {
  auto [handle, peer] = Connect();
  auto pending = BeginRead(Request(handle, 10));
  AwaitReader(handle);
  Close(handle);
  EXPECT_TRUE(pending->Wait().ok());
  EXPECT_EQ(pending->response.outcome(), v1::READ_OUTCOME_EOF);
}

TEST_F(BrokerReads, AMegabyteComesInOneReply) {
  auto [handle, peer] = Connect();
  const std::string sent(1 << 20, 'x');
  v1::ReadExactlyRequest request;
  request.set_handle(handle);
  request.set_n(1 << 20);
  auto pending = Begin<v1::ReadExactlyRequest, v1::ReadResponse>(&Async::ReadExactly, request);
  peer.Send(sent);
  EXPECT_TRUE(pending->Wait().ok());
  EXPECT_EQ(pending->response.data(), sent);
}

TEST_F(BrokerReads, FieldsOutOfTheirRangeAreNamed) {
  auto [handle, peer] = Connect();
  for (const int64_t n : {int64_t{-1}, int64_t{1048577}, INT64_MAX, INT64_MIN}) {
    const grpc::Status status = TryRead(Request(handle, n));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(DetailOf(status).field(), "n");
    EXPECT_EQ(DetailOf(status).allowed(), "0 to 1048576");
  }
  v1::ReadResponse response;
  v1::ReadUntilRequest until;
  until.set_handle(handle);
  until.add_separators("");
  EXPECT_EQ(DetailOf(Do(&Stub::ReadUntil, until, &response)).field(), "separators");
  until.set_separators(0, std::string(1 << 20, 'x'));
  EXPECT_EQ(DetailOf(Do(&Stub::ReadUntil, until, &response)).field(), "separators");
  until.clear_separators();
  for (int i = 0; i < 65; i++) until.add_separators("x");
  EXPECT_EQ(DetailOf(Do(&Stub::ReadUntil, until, &response)).field(), "separators");
  v1::ReadRequest request = Request(handle, 1);
  request.set_request_id(std::string(17, 'x'));
  EXPECT_EQ(DetailOf(TryRead(request)).field(), "request_id");
  request = Request(handle, 0);
  request.set_epoch(1);
  const grpc::Status stale = TryRead(request);
  EXPECT_EQ(stale.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(DetailOf(stale).reason(), v1::STALE_EPOCH);
}

}  // namespace
}  // namespace sockbroker::server
