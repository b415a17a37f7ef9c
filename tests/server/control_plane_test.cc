#include "server/control_plane.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "server/listen_address.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"
#include "streams/address.h"
#include "streams/testing/status_matchers.h"
#include "tests/server/temporary_directory.h"

namespace sockbroker::server {
namespace {

using streams::IsOk;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using v1::SocketBroker;

// Answers with the caller's peer text; WaitClosed never by itself.
class FakeBroker final : public SocketBroker::CallbackService {
 public:
  grpc::ServerUnaryReactor* AtEof(grpc::CallbackServerContext* context, const v1::AtEofRequest*,
                                  v1::AtEofResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status(grpc::StatusCode::OUT_OF_RANGE, context->peer()));
    return reactor;
  }
  grpc::ServerUnaryReactor* WaitClosed(grpc::CallbackServerContext*, const v1::WaitClosedRequest*,
                                       v1::WaitClosedResponse*) override {
    class Waiting final : public grpc::ServerUnaryReactor {
      void OnCancel() override { Finish(grpc::Status::CANCELLED); }
      void OnDone() override { delete this; }
    };
    waiting_.Notify();
    return new Waiting;
  }
  absl::Notification waiting_;
};

class ControlPlaneTest : public ::testing::Test {
 protected:
  void Start(const std::vector<std::string>& where, ControlPlaneOptions options = {}) {
    const ListenPolicy policy = {.insecure_loopback = true};
    std::vector<ListeningSocket> sockets;
    for (const std::string& text : where) {
      auto opened = ListeningSocket::Open(*ParseListenAddress(text, policy), policy, nullptr);
      ASSERT_THAT(opened, IsOk());
      sockets.push_back(std::move((*opened)[0]));
    }
    auto plane = ControlPlane::Start(std::move(sockets), {&broker_}, std::move(options));
    ASSERT_THAT(plane, IsOk());
    plane_ = *std::move(plane);
  }
  void StartUnix() { Start({"unix:" + directory_.path("b.sock")}); }

  std::unique_ptr<SocketBroker::Stub> Connect(std::size_t listener = 0) {
    grpc::ChannelArguments arguments;
    // A connection of its own each, as separate programs have.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // Tries again quickly where a test makes it fail first.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
    return SocketBroker::NewStub(grpc::CreateCustomChannel(
        plane_->addresses()[listener], grpc::InsecureChannelCredentials(), arguments));
  }

  // What the fake says the peer is; or the error.
  static std::string AskPeer(SocketBroker::Stub* stub, const std::string& metadata = "") {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    if (!metadata.empty()) context.AddMetadata("x-long", metadata);
    v1::AtEofResponse response;
    const grpc::Status status = stub->AtEof(&context, {}, &response);
    if (status.error_code() == grpc::StatusCode::OUT_OF_RANGE) return status.error_message();
    return "error " + std::to_string(status.error_code()) + ": " + status.error_message();
  }

  TemporaryDirectory directory_;
  FakeBroker broker_;
  std::unique_ptr<ControlPlane> plane_;
};

TEST_F(ControlPlaneTest, ServesOnEveryListenerAndTheirPeersCanBeToldApart) {
  // why: what a caller may do depends on the listener it came through
  Start({"unix:" + directory_.path("b.sock"), "127.0.0.1:0"});
  EXPECT_THAT(plane_->addresses(),
              ElementsAre("unix:" + directory_.path("b.sock"), StartsWith("127.0.0.1:")));
  EXPECT_EQ(AskPeer(Connect(0).get()), "unix:");
  EXPECT_THAT(AskPeer(Connect(1).get()), StartsWith("ipv4:127.0.0.1:"));
}

TEST_F(ControlPlaneTest, AfterRunningOutOfDescriptorsThePortWorksAgain) {
  // why: with gRPC 1.51's own listener it never would (CVE-2023-4785)
  std::string trouble;  // the first; written before `paused`
  absl::Notification paused;
  Start({"unix:" + directory_.path("b.sock")}, {.on_trouble = [&](absl::string_view sentence) {
          if (paused.HasBeenNotified()) return;
          trouble = std::string(sentence);
          paused.Notify();
        }});
  // It stays: a connection that gRPC closes in the background would free a descriptor.
  const auto first = Connect();
  ASSERT_EQ(AskPeer(first.get()), "unix:");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit lowered = before;
  lowered.rlim_cur = 256;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  std::vector<streams::Descriptor> hoard;
  // Client and server are one process here, so the client's socket is made first, by hand.
  const streams::Descriptor client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  hoard.reserve(256);
  for (int fd; (fd = dup(client.get())) >= 0;) hoard.emplace_back(fd);
  const int why_no_more = errno;
  const auto address = *streams::SocketAddress::FromUnixPath(directory_.path("b.sock"));
  const bool connected = connect(client.get(), address.data(), address.size()) == 0;
  if (connected) paused.WaitForNotification();
  hoard.clear();
  // Only now: UBSan needs descriptors to look at objects, see control_listener_test.cc.
  ASSERT_TRUE(connected);
  EXPECT_EQ(why_no_more, EMFILE);
  EXPECT_THAT(trouble, HasSubstr("Too many open files"));
  EXPECT_EQ(AskPeer(Connect().get()), "unix:");
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST_F(ControlPlaneTest, EveryConnectionsDescriptorIsGivenBack) {
  StartUnix();
  const auto open_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  ASSERT_EQ(AskPeer(Connect().get()), "unix:");
  const auto before = open_descriptors();
  for (int i = 0; i < 50; i++) ASSERT_EQ(AskPeer(Connect().get()), "unix:");
  // gRPC closes in the background: until it has, or the test's time is over.
  while (open_descriptors() > before) std::this_thread::yield();
}

TEST_F(ControlPlaneTest, RefusesMetadataAboveItsLimit) {
  // why: HPACK turns a few bytes on the wire into many in memory
  StartUnix();
  EXPECT_EQ(AskPeer(Connect().get(), std::string(8 << 10, 'm')), "unix:");
  EXPECT_THAT(AskPeer(Connect().get(), std::string(32 << 10, 'm')), StartsWith("error 8"));
}

TEST_F(ControlPlaneTest, RefusesMessagesAboveItsLimit) {
  StartUnix();
  auto stub = Connect();
  const auto write = [&](std::size_t size) {
    grpc::ClientContext context;
    v1::WriteRequest request;
    request.set_data(std::string(size, 'd'));
    v1::WriteResponse response;
    return stub->Write(&context, request, &response).error_code();
  };
  EXPECT_EQ(write(1 << 20), grpc::StatusCode::UNIMPLEMENTED);  // it arrived
  EXPECT_EQ(write(5 << 20), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// One unary call of raw bytes.
grpc::Status CallRaw(const std::string& target, const std::string& method,
                     const std::string& request, std::string* response) {
  auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  grpc::Slice slice(request);
  grpc::ByteBuffer sent(&slice, 1);
  grpc::ByteBuffer received;
  absl::Notification done;
  grpc::Status status;
  stub.UnaryCall(&context, method, {}, &sent, &received, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  std::vector<grpc::Slice> slices;
  if (status.ok() && received.Dump(&slices).ok()) {
    for (const grpc::Slice& part : slices) {
      response->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
  }
  return status;
}

TEST_F(ControlPlaneTest, HealthFollowsSetServing) {
  StartUnix();
  const auto health = [&] {
    std::string response;
    const grpc::Status status =
        CallRaw(plane_->addresses()[0], "/grpc.health.v1.Health/Check", "", &response);
    return status.ok() ? response : status.error_message();
  };
  EXPECT_EQ(health(), "\x08\x01");  // status: SERVING
  plane_->SetServing(false);
  EXPECT_EQ(health(), "\x08\x02");  // NOT_SERVING
}

TEST_F(ControlPlaneTest, ReflectionKnowsTheService) {
  StartUnix();
  // ServerReflectionRequest{list_services: "*"}; one message of the stream is enough.
  std::string response;
  const grpc::Status status = CallRaw(
      plane_->addresses()[0], "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      "\x3a\x01*", &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response, HasSubstr("sockbroker.v1.SocketBroker"));
}

TEST_F(ControlPlaneTest, ShutdownEndsCallsThatWouldWaitForEver) {
  StartUnix();
  auto stub = Connect();
  grpc::ClientContext context;
  v1::WaitClosedRequest request;
  v1::WaitClosedResponse response;
  absl::Notification done;
  grpc::Status status;
  stub->async()->WaitClosed(&context, &request, &response, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  broker_.waiting_.WaitForNotification();
  plane_->Shutdown(absl::Milliseconds(10));
  done.WaitForNotification();
  EXPECT_FALSE(status.ok());
  // Whoever comes now meets nobody.
  EXPECT_EQ(access(directory_.path("b.sock").c_str(), F_OK), -1);
  plane_->Shutdown(absl::Seconds(1));
}

TEST_F(ControlPlaneTest, RemoveFilesLeavesTheServerRunning) {
  // why: it is what a process does that leaves at once, beside threads that still use the server
  StartUnix();
  auto stub = Connect();
  EXPECT_EQ(AskPeer(stub.get()), "unix:");
  plane_->RemoveFiles();
  EXPECT_EQ(access(directory_.path("b.sock").c_str(), F_OK), -1);
  EXPECT_EQ(AskPeer(stub.get()), "unix:");
}

}  // namespace
}  // namespace sockbroker::server
