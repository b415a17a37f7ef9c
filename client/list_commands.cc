#include "client/list_commands.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/console.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/json_output.h"
#include "client/labels.h"
#include "client/listing.h"
#include "client/seconds.h"
#include "client/text_table.h"

namespace sockbroker::client {
namespace {

std::string Age(const google::protobuf::Timestamp& from) {
  return AgeText(absl::Now() - ToTime(from));
}

// Prints what script or table want; `row` makes the cells of an item, the first of which is its
// handle.
template <typename Item, typename Row>
int Print(const std::vector<Item>& items, const ListOptions& options,
          std::vector<std::string> header, Row row) {
  if (options.json || options.quiet) {
    for (const Item& item : items) {
      const int status = PrintLine(options.json ? MessageJson(item) : HandleText(item.handle()));
      if (status != kExitOk) return status;
    }
    return kExitOk;
  }
  std::vector<std::string> handles;
  handles.reserve(items.size());
  for (const Item& item : items) handles.push_back(HandleText(item.handle()));
  const std::size_t length = UniqueLength(handles);
  TextTable table(std::move(header));
  for (std::size_t i = 0; i < items.size(); ++i) {
    std::vector<std::string> cells = row(items[i]);
    cells.insert(cells.begin(), handles[i].substr(0, length));
    table.AddRow(std::move(cells));
  }
  return PrintLine(table.Text());
}

}  // namespace

std::string StateText(const v1::Connection& connection) {
  switch (connection.state()) {
    case v1::CONNECTION_STATE_CLOSING:
      return "closing";
    case v1::CONNECTION_STATE_CLOSED:
      return "closed";
    case v1::CONNECTION_STATE_OPEN:
      if (connection.at_eof()) return connection.write_eof() ? "both-eof" : "peer-eof";
      return connection.write_eof() ? "eof-sent" : "open";
    default:
      return "unknown";
  }
}

int RunListConnections(BrokerLink& link, const ListOptions& options) {
  v1::ListConnectionsRequest request;
  if (absl::Status status = ParseLabels(options.labels, request.mutable_labels()); !status.ok()) {
    return FailWith(status);
  }
  request.set_include_closed(options.all);
  if (!options.server.empty()) {
    absl::StatusOr<NamedHandle> server = ResolveHandle(link, options.server, HandleKind::kServer);
    if (!server.ok()) return FailWith(server.status());
    request.set_server(server->handle);
  }
  std::vector<v1::Connection> connections;
  const grpc::Status status = ForEachConnection(
      link, request, [&](const v1::Connection& connection) { connections.push_back(connection); });
  if (!status.ok())
    return FailWith(ToAbslStatus(link.address(), "listing the connections", status));
  return Print(connections, options,
               {"HANDLE", "STATE", "LOCAL", "PEER", "AGE", "RX", "TX", "LABELS"},
               [](const v1::Connection& connection) -> std::vector<std::string> {
                 return {StateText(connection),
                         EndpointText(connection.local()),
                         EndpointText(connection.peer()),
                         Age(connection.opened_at()),
                         absl::StrCat(connection.offsets().received()),
                         absl::StrCat(connection.offsets().write_offset()),
                         LabelsText(connection.options().labels())};
               });
}

int RunListServers(BrokerLink& link, const ListOptions& options) {
  v1::ListServersRequest request;
  if (absl::Status status = ParseLabels(options.labels, request.mutable_labels()); !status.ok()) {
    return FailWith(status);
  }
  request.set_include_closed(options.all);
  std::vector<v1::Server> servers;
  const grpc::Status status =
      ForEachServer(link, request, [&](const v1::Server& server) { servers.push_back(server); });
  if (!status.ok()) return FailWith(ToAbslStatus(link.address(), "listing the servers", status));
  return Print(servers, options,
               {"HANDLE", "NAME", "STATE", "LISTENS ON", "AGE", "OPEN", "ACCEPTED", "LABELS"},
               [](const v1::Server& server) -> std::vector<std::string> {
                 std::vector<std::string> sockets;
                 for (const v1::Endpoint& endpoint : server.sockets())
                   sockets.push_back(EndpointText(endpoint));
                 return {server.name().empty() ? "-" : server.name(),
                         server.closed()       ? "closed"
                         : server.is_serving() ? "serving"
                                               : "waiting",
                         sockets.empty() ? "-" : absl::StrJoin(sockets, ","),
                         Age(server.started_at()),
                         absl::StrCat(server.active_connections()),
                         absl::StrCat(server.accepted_total()),
                         LabelsText(server.options().labels())};
               });
}

}  // namespace sockbroker::client
