// The Session stream over gRPC, as raw messages: what arrives and what is sent is never copied.
//
//   std::unique_ptr<SessionCall> call = DialGrpcSession(channel, metadata, gate, &listener);
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "client/cpp/internal/loop_gate.h"
#include "client/cpp/internal/session_call.h"
#include "client/cpp/options.h"

namespace sockbroker::client::internal {

// `gate` leads to the loop of whoever calls this.
std::unique_ptr<SessionCall> DialGrpcSession(const std::shared_ptr<grpc::Channel>& channel,
                                             const Metadata& metadata,
                                             std::shared_ptr<LoopGate> gate,
                                             SessionCall::Listener* listener);

}  // namespace sockbroker::client::internal
