#include "server/errors.h"

#include <cerrno>
#include <string>
#include <vector>

#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "server/endpoint_codec.h"
#include "streams/address.h"
#include "streams/error.h"
#include "transport/utf8.h"

namespace sockbroker::server {
namespace {

google::rpc::Status Parse(const grpc::Status& status) {
  google::rpc::Status parsed;
  EXPECT_TRUE(parsed.ParseFromString(status.error_details()));
  return parsed;
}

TEST(RpcStatusTest, OkHasNoDetails) {
  EXPECT_TRUE(RpcStatus().ok());
  EXPECT_TRUE(RpcStatus().ToGrpc().ok());
  EXPECT_EQ(RpcStatus().ToGrpc().error_details(), "");
}

TEST(RpcStatusTest, AnErrorCarriesOneTypedDetail) {
  const grpc::Status status = InvalidField("options.limit", "1 to 10").ToGrpc();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const google::rpc::Status parsed = Parse(status);
  EXPECT_EQ(parsed.code(), grpc::StatusCode::INVALID_ARGUMENT);
  ASSERT_EQ(parsed.details_size(), 1);
  EXPECT_EQ(parsed.details(0).type_url(), "type.googleapis.com/sockbroker.v1.ErrorDetail");
  v1::ErrorDetail detail;
  ASSERT_TRUE(parsed.details(0).UnpackTo(&detail));
  EXPECT_EQ(detail.field(), "options.limit");
  EXPECT_EQ(detail.allowed(), "1 to 10");
  EXPECT_FALSE(detail.retryable());
}

TEST(RpcStatusTest, WhatIsNotUtf8IsReplaced) {
  for (const RpcStatus& status :
       {WrongState(v1::OS_ERROR, "no such file: /tmp/\xff"), InvalidField("x\xff", "y\xfe"),
        FromEngine(absl::NotFoundError("h\xff"), EngineCall::kConnect)}) {
    EXPECT_TRUE(IsUtf8(status.message()));
    v1::ErrorDetail detail;
    ASSERT_TRUE(Parse(status.ToGrpc()).details(0).UnpackTo(&detail));
  }
}

TEST(RpcStatusTest, ManyAttemptsAreCutToFourKilobytes) {
  std::vector<streams::AttemptFailure> attempts;
  for (int i = 0; i < 300; i++) {
    attempts.push_back({*streams::SocketAddress::FromIp("2001:db8::1", 443), ECONNREFUSED,
                        "Connect call failed, in " + std::string(100, 'x')});
  }
  const grpc::Status status =
      FromEngine(streams::AttemptsError(attempts), EngineCall::kConnect).ToGrpc();
  EXPECT_LE(status.error_details().size(), kMaxErrorDetails);
  v1::ErrorDetail detail;
  ASSERT_TRUE(Parse(status).details(0).UnpackTo(&detail));
  EXPECT_EQ(detail.reason(), v1::CONNECTION_REFUSED);
  EXPECT_GT(detail.attempts_size(), 5);
}

TEST(RpcStatusTest, LongMessagesAreCutBetweenCharacters) {
  std::string umlauts;
  for (int i = 0; i < 1000; i++) umlauts += "\xc3\xa4";
  const RpcStatus status = WrongState(v1::UNSUPPORTED, "x" + umlauts);
  EXPECT_LE(status.message().size(), kMaxErrorMessage + 3);
  EXPECT_EQ(status.message()[status.message().size() - 4], '\xa4');
}

TEST(RpcStatusTest, CopiesAreIndependent) {
  RpcStatus a = NoSuchHandle();
  RpcStatus b = a;
  b.detail().set_epoch(7);
  EXPECT_EQ(a.detail().epoch(), 0u);
  a = RpcStatus();
  EXPECT_EQ(b.reason(), v1::NO_SUCH_HANDLE);
}

TEST(FromEngineTest, TheSameErrnoMeansWhatWasDone) {
  const auto reason = [](int os_errno, EngineCall call) {
    return FromEngine(streams::ErrnoToStatus(os_errno, "x"), call).reason();
  };
  EXPECT_EQ(reason(ECONNREFUSED, EngineCall::kConnect), v1::CONNECTION_REFUSED);
  EXPECT_EQ(reason(ENOENT, EngineCall::kConnect), v1::CONNECTION_REFUSED);
  EXPECT_EQ(reason(EHOSTUNREACH, EngineCall::kConnect), v1::UNREACHABLE);
  EXPECT_EQ(reason(EADDRINUSE, EngineCall::kConnect), v1::BIND_FAILED);
  EXPECT_EQ(reason(EACCES, EngineCall::kConnect), v1::OS_ERROR);
  EXPECT_EQ(reason(EACCES, EngineCall::kBind), v1::BIND_FAILED);
  EXPECT_EQ(reason(ECONNRESET, EngineCall::kStream), v1::CONNECTION_RESET);
  EXPECT_EQ(reason(EPIPE, EngineCall::kStream), v1::CONNECTION_RESET);
  EXPECT_EQ(reason(EMFILE, EngineCall::kConnect), v1::DESCRIPTOR_RESERVE);
  EXPECT_EQ(FromEngine(streams::ErrnoToStatus(EMFILE, "x"), EngineCall::kConnect).code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(FromEngineTest, NothingOfTheNetworkIsUnavailable) {
  for (int os_errno = 1; os_errno < 134; os_errno++) {
    for (const EngineCall call : {EngineCall::kConnect, EngineCall::kBind, EngineCall::kStream}) {
      EXPECT_NE(FromEngine(streams::ErrnoToStatus(os_errno, "x"), call).code(),
                grpc::StatusCode::UNAVAILABLE);
    }
  }
}

TEST(FromEngineTest, TimeOutsNameTheirPhaseAndNamesTheResolversWord) {
  const RpcStatus timeout =
      FromEngine(streams::PhaseTimeoutError("connect", "too slow"), EngineCall::kConnect);
  EXPECT_EQ(timeout.code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(timeout.detail().phase(), v1::PHASE_CONNECT);
  const RpcStatus name =
      FromEngine(streams::ResolveError("host", "no such name"), EngineCall::kConnect);
  EXPECT_EQ(name.code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(name.reason(), v1::NAME_NOT_FOUND);
  EXPECT_EQ(name.detail().resolver_error(), "no such name");
}

}  // namespace
}  // namespace sockbroker::server
