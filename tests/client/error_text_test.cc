#include "client/error_text.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "client/exit_status.h"

namespace sockbroker::client {
namespace {

using grpc::StatusCode;

v1::ErrorDetail Detail(v1::Reason reason, int os_errno = 0) {
  v1::ErrorDetail detail;
  detail.set_reason(reason);
  detail.set_os_errno(os_errno);
  return detail;
}

void AddAttempt(v1::ErrorDetail* detail, const char* host, int os_errno) {
  v1::Attempt* attempt = detail->add_attempts();
  attempt->mutable_endpoint()->mutable_tcp()->set_host(host);
  attempt->mutable_endpoint()->mutable_tcp()->set_port(9);
  attempt->set_os_errno(os_errno);
}

TEST(ErrorText, ARefusalReadsAsInNc) {
  const grpc::Status status = MakeStatus(StatusCode::FAILED_PRECONDITION, "anything",
                                         Detail(v1::CONNECTION_REFUSED, ECONNREFUSED));
  EXPECT_EQ(ErrorLine("connect to 127.0.0.1 port 9", status),
            "connect to 127.0.0.1 port 9 failed: Connection refused");
  EXPECT_EQ(ExitStatusOf(status), kExitFailed);
}

TEST(ErrorText, AddressesThatFailedAlikeAreSaidOnce) {
  v1::ErrorDetail detail = Detail(v1::CONNECTION_REFUSED, ECONNREFUSED);
  AddAttempt(&detail, "::1", ECONNREFUSED);
  AddAttempt(&detail, "127.0.0.1", ECONNREFUSED);
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::FAILED_PRECONDITION, "", detail)),
            "Connection refused");
}

TEST(ErrorText, AddressesThatFailedDifferentlyAreSaidEach) {
  v1::ErrorDetail detail = Detail(v1::CONNECTION_REFUSED, ENETUNREACH);
  AddAttempt(&detail, "2001:db8::1", ENETUNREACH);
  AddAttempt(&detail, "192.0.2.1", ECONNREFUSED);
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::FAILED_PRECONDITION, "", detail)),
            "[2001:db8::1]:9: Network is unreachable; 192.0.2.1:9: Connection refused");
}

TEST(ErrorText, ATimeOutNamesItsPhase) {
  v1::ErrorDetail detail = Detail(v1::TIMED_OUT);
  detail.set_phase(v1::PHASE_RESOLVE);
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::DEADLINE_EXCEEDED, "", detail)),
            "timed out while the name was looked up");
}

TEST(ErrorText, AnErrorSaysWhatToDoNext) {
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::FAILED_PRECONDITION, "",
                                 Detail(v1::BIND_FAILED, EADDRINUSE))),
            "Address already in use");
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::NOT_FOUND, "", Detail(v1::WRONG_BROKER))),
            "it belongs to another broker; name that one with -b ADDRESS");
  v1::ErrorDetail quota = Detail(v1::QUOTA);
  quota.set_limit_name("connections");
  quota.set_limit_value(10);
  quota.mutable_retry_after()->set_seconds(3);
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::RESOURCE_EXHAUSTED, "", quota)),
            "the broker is at its limit (connections = 10); close what is not needed or try again "
            "in 3 s");
  v1::ErrorDetail field = Detail(v1::INVALID_FIELD);
  field.set_field("options.limit");
  field.set_allowed("1 to 1048576");
  EXPECT_EQ(CauseText(MakeStatus(StatusCode::INVALID_ARGUMENT, "", field)),
            "options.limit must be 1 to 1048576");
}

TEST(ErrorText, WhatIsWrongWithAFieldIsSaidOfTheFlag) {
  const auto text = [](const char* field, const char* allowed) {
    v1::ErrorDetail detail = Detail(v1::INVALID_FIELD);
    detail.set_field(field);
    detail.set_allowed(allowed);
    return CauseText(MakeStatus(StatusCode::INVALID_ARGUMENT, "", detail));
  };
  EXPECT_EQ(text("options.accepted.lease", "1 s to 24 h"), "--lease must be 1 s to 24 h");
  EXPECT_EQ(text("tls.server_hostname", "server_hostname cannot start with a dot"),
            "--servername cannot start with a dot");
  EXPECT_EQ(text("tls.certificate_pem", "certificate: no start line"), "--cert: no start line");
}

TEST(ErrorText, WhatToDoAboutAnAddressHangsOnItsKind) {
  const auto advice = [](int error, Bound what) {
    return BindAdvice(
        MakeStatus(StatusCode::FAILED_PRECONDITION, "", Detail(v1::BIND_FAILED, error)), what);
  };
  EXPECT_EQ(advice(EADDRINUSE, Bound::kPort),
            "; port 0 takes a free one, and `sockbroker servers` shows whether a listener of yours "
            "has it");
  EXPECT_EQ(advice(EADDRINUSE, Bound::kPath),
            "; `sockbroker servers` shows whether a listener of yours has it");
  EXPECT_EQ(advice(EACCES, Bound::kPort),
            "; the broker may not bind this (ports below 1024 need CAP_NET_BIND_SERVICE)");
  EXPECT_EQ(advice(EACCES, Bound::kPath), "; the broker may not make a socket there");
  EXPECT_EQ(advice(EADDRINUSE, Bound::kSource), "; without -p it is a free port");
  EXPECT_EQ(BindAdvice(MakeStatus(StatusCode::FAILED_PRECONDITION, "",
                                  Detail(v1::CONNECTION_REFUSED, ECONNREFUSED)),
                       Bound::kPort),
            "");
}

TEST(ErrorText, WithoutADetailTheMessageSpeaks) {
  EXPECT_EQ(CauseText({StatusCode::INTERNAL, "boom"}), "boom");
  EXPECT_EQ(CauseText({StatusCode::DEADLINE_EXCEEDED, "Deadline Exceeded"}), "timed out");
  EXPECT_EQ(CauseText({StatusCode::UNKNOWN, ""}), "gRPC status 2");
}

TEST(ErrorText, ADetailThatIsNoneDoesNoHarm) {
  const grpc::Status status(StatusCode::NOT_FOUND, "message", "\xff\xff not a google.rpc.Status");
  EXPECT_FALSE(DetailOf(status).has_value());
  EXPECT_EQ(CauseText(status), "message");
}

TEST(ErrorText, AReasonFromTheFutureIsJudgedByItsCode) {
  v1::ErrorDetail detail;
  detail.set_reason(static_cast<v1::Reason>(9999));
  const grpc::Status status = MakeStatus(StatusCode::FAILED_PRECONDITION, "something new", detail);
  EXPECT_EQ(CauseText(status), "something new");
  EXPECT_EQ(ExitStatusOf(status), kExitFailed);
}

TEST(ErrorText, OnlyTheWayToTheBrokerIsABrokenLink) {
  EXPECT_TRUE(IsBrokenLink({StatusCode::UNAVAILABLE, "Socket closed"}));
  EXPECT_TRUE(IsBrokenLink({StatusCode::CANCELLED, "server shutdown"}));
  EXPECT_FALSE(IsBrokenLink(grpc::Status::OK));
  EXPECT_FALSE(IsBrokenLink({StatusCode::DEADLINE_EXCEEDED, ""}));
  const grpc::Status draining = MakeStatus(StatusCode::UNAVAILABLE, "", Detail(v1::DRAINING));
  EXPECT_FALSE(IsBrokenLink(draining)) << "it would be asked again and again";
  EXPECT_EQ(ExitStatusOf(draining), kExitNoBroker);
}

TEST(ErrorText, AMissingBrokerSaysHowToStartOne) {
  const BrokerAddress address = *BrokerAddress::Parse("/nonexistent/x.sock");
  EXPECT_EQ(NoBrokerText(address, grpc::Status::OK),
            "no broker at unix:/nonexistent/x.sock: No such file or directory; start "
            "`sockbrokerd`, or name "
            "another with -b ADDRESS or SOCKBROKER_ADDRESS");
  EXPECT_EQ(ExitStatusOf(ToAbslStatus(address, "ls", {StatusCode::UNAVAILABLE, ""})),
            kExitNoBroker);
}

}  // namespace
}  // namespace sockbroker::client
