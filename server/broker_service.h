// BrokerService: `service SocketBroker` on gRPC's callback API. Its methods run on gRPC's threads:
// they check, find what the request names, and dispatch to its loop, where all else happens.
#pragma once

#include <grpcpp/support/server_callback.h>

#include "server/broker_core.h"
#include "server/principal.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"

namespace sockbroker::server {

class BrokerService final : public v1::SocketBroker::CallbackService {
 public:
  explicit BrokerService(BrokerCore* core);

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* OpenConnection(Context* context, const v1::OpenConnectionRequest* request,
                          v1::OpenConnectionResponse* response) override;
  Reactor* OpenUnixConnection(Context* context, const v1::OpenUnixConnectionRequest* request,
                              v1::OpenConnectionResponse* response) override;

  Reactor* StartServer(Context* context, const v1::StartServerRequest* request,
                       v1::StartServerResponse* response) override;
  Reactor* StartUnixServer(Context* context, const v1::StartUnixServerRequest* request,
                           v1::StartServerResponse* response) override;
  Reactor* StartServing(Context* context, const v1::StartServingRequest* request,
                        v1::StartServingResponse* response) override;
  Reactor* Accept(Context* context, const v1::AcceptRequest* request,
                  v1::AcceptResponse* response) override;
  Reactor* GetServer(Context* context, const v1::GetServerRequest* request,
                     v1::Server* response) override;
  Reactor* ListServers(Context* context, const v1::ListServersRequest* request,
                       v1::ListServersResponse* response) override;
  Reactor* CloseServer(Context* context, const v1::CloseServerRequest* request,
                       v1::CloseServerResponse* response) override;
  Reactor* CloseClients(Context* context, const v1::CloseClientsRequest* request,
                        v1::CloseClientsResponse* response) override;
  Reactor* AbortClients(Context* context, const v1::AbortClientsRequest* request,
                        v1::AbortClientsResponse* response) override;
  Reactor* WaitServerClosed(Context* context, const v1::WaitServerClosedRequest* request,
                            v1::WaitServerClosedResponse* response) override;

  Reactor* Read(Context* context, const v1::ReadRequest* request,
                v1::ReadResponse* response) override;
  Reactor* ReadLine(Context* context, const v1::ReadLineRequest* request,
                    v1::ReadResponse* response) override;
  Reactor* ReadExactly(Context* context, const v1::ReadExactlyRequest* request,
                       v1::ReadResponse* response) override;
  Reactor* ReadUntil(Context* context, const v1::ReadUntilRequest* request,
                     v1::ReadResponse* response) override;
  Reactor* AtEof(Context* context, const v1::AtEofRequest* request,
                 v1::AtEofResponse* response) override;

  Reactor* Write(Context* context, const v1::WriteRequest* request,
                 v1::WriteResponse* response) override;
  Reactor* WriteLines(Context* context, const v1::WriteLinesRequest* request,
                      v1::WriteResponse* response) override;
  Reactor* Drain(Context* context, const v1::DrainRequest* request,
                 v1::DrainResponse* response) override;
  Reactor* StartTls(Context* context, const v1::StartTlsRequest* request,
                    v1::StartTlsResponse* response) override;

  Reactor* CanWriteEof(Context* context, const v1::CanWriteEofRequest* request,
                       v1::CanWriteEofResponse* response) override;
  Reactor* WriteEof(Context* context, const v1::WriteEofRequest* request,
                    v1::WriteEofResponse* response) override;

  Reactor* Close(Context* context, const v1::CloseRequest* request,
                 v1::CloseResponse* response) override;
  Reactor* Abort(Context* context, const v1::AbortRequest* request,
                 v1::AbortResponse* response) override;
  Reactor* IsClosing(Context* context, const v1::IsClosingRequest* request,
                     v1::IsClosingResponse* response) override;
  Reactor* WaitClosed(Context* context, const v1::WaitClosedRequest* request,
                      v1::WaitClosedResponse* response) override;
  Reactor* GetExtraInfo(Context* context, const v1::GetExtraInfoRequest* request,
                        v1::GetExtraInfoResponse* response) override;
  Reactor* GetConnection(Context* context, const v1::GetConnectionRequest* request,
                         v1::Connection* response) override;
  Reactor* SetOptions(Context* context, const v1::SetOptionsRequest* request,
                      v1::SetOptionsResponse* response) override;
  Reactor* ListConnections(Context* context, const v1::ListConnectionsRequest* request,
                           v1::ListConnectionsResponse* response) override;
  grpc::ServerWriteReactor<v1::ConnectionEvent>* WatchConnections(
      Context* context, const v1::WatchConnectionsRequest* request) override;

 private:
  template <typename Request, typename Response>
  Reactor* OnConnection(Context* context, const Request* request, Response* response);
  template <typename Request, typename Response>
  Reactor* OnServer(Context* context, const Request* request, Response* response);

  BrokerCore* const core_;
};

}  // namespace sockbroker::server
