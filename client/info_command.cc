#include "client/info_command.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/console.h"
#include "client/endpoint_text.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "client/handle_text.h"
#include "client/json_output.h"
#include "client/labels.h"
#include "client/list_commands.h"
#include "client/seconds.h"
#include "client/text_table.h"
#include "client/tls_text.h"

namespace sockbroker::client {
namespace {

// "name   value" lines.
class Fields {
 public:
  void Add(absl::string_view name, absl::string_view value) {
    if (!value.empty()) fields_.emplace_back(std::string(name), Printable(value));
  }

  std::string Text() const {
    std::string text;
    for (const auto& [name, value] : fields_) {
      absl::StrAppendFormat(&text, "%s%-12s %s", text.empty() ? "" : "\n", name, value);
    }
    return text;
  }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

std::string When(const google::protobuf::Timestamp& timestamp) {
  const absl::Time at = ToTime(timestamp);
  return absl::StrCat(absl::FormatTime("%Y-%m-%d %H:%M:%S", at, absl::LocalTimeZone()), " (",
                      AgeText(absl::Now() - at), " ago)");
}

std::string DurationText(const google::protobuf::Duration& duration) {
  return absl::FormatDuration(ToDuration(duration));
}

std::string SocketText(const v1::SocketInfo& socket) {
  std::string text =
      absl::StrCat("descriptor ", socket.fileno(), ", kernel holds ", socket.receive_queued(),
                   " received and ", socket.send_queued(), " unsent bytes");
  if (socket.has_rtt()) {
    absl::StrAppend(&text, ", round trip ", DurationText(socket.rtt()), ", ",
                    socket.total_retransmits(), " retransmits");
  }
  if (socket.has_peer_pid()) {
    absl::StrAppend(&text, ", peer process ", socket.peer_pid(), " of user ", socket.peer_uid());
  }
  return text;
}

void DescribeTls(const v1::TlsInfo& tls, Fields* fields) {
  fields->Add("tls", absl::StrCat(tls.version(), tls.server_side() ? ", we are the server" : ""));
  fields->Add("cipher",
              absl::StrCat(tls.cipher().name(), " (", tls.cipher().bits(), " secret bits)"));
  fields->Add("alpn", tls.alpn());
  fields->Add("server name", tls.server_name());
  fields->Add("resumed", tls.resumed() ? "yes" : "no");
  fields->Add("verified", VerifyText(tls));
  // 0 and 0: from the first byte on.
  if (tls.read_offset() > 0 || tls.write_offset() > 0) {
    fields->Add("upgraded", absl::StrCat("behind ", tls.read_offset(), " bytes received and ",
                                         tls.write_offset(), " sent"));
  }
  if (tls.peer_certificates().empty()) return;
  const v1::Certificate& certificate = tls.peer_certificates(0);
  fields->Add("certificate", certificate.subject().empty() ? "-" : certificate.subject());
  fields->Add("issued by", certificate.issuer());
  fields->Add("names", absl::StrJoin(certificate.subject_alt_names(), ", "));
  fields->Add("valid", ValidityText(certificate, absl::Now()));
  fields->Add("serial", certificate.serial());
  fields->Add("sha-256", certificate.sha256_fingerprint());
  for (int i = 1; i < tls.peer_certificates_size(); ++i) {
    const v1::Certificate& next = tls.peer_certificates(i);
    fields->Add("chain", absl::StrCat(next.subject(), ", ", ExpiryText(next, absl::Now())));
  }
}

void Describe(const v1::Connection& connection, const v1::GetExtraInfoResponse* extra,
              Fields* fields) {
  const v1::Offsets& offsets = connection.offsets();
  fields->Add("handle", HandleText(connection.handle()));
  fields->Add("state", StateText(connection));
  if (connection.state() == v1::CONNECTION_STATE_CLOSED) {
    fields->Add("closed", When(connection.closed_at()));
    fields->Add("because", absl::StrCat(CloseReasonText(connection.close_reason()),
                                        connection.close_message().empty()
                                            ? ""
                                            : absl::StrCat(" (", connection.close_message(), ")")));
  }
  fields->Add("local", EndpointText(connection.local()));
  fields->Add("peer", EndpointText(connection.peer()));
  fields->Add("asked for", connection.requested_host());
  if (!connection.server().empty()) fields->Add("server", HandleText(connection.server()));
  if (connection.has_proxied_source()) {
    fields->Add("proxied for", absl::StrCat(connection.proxied_source().host(), " port ",
                                            connection.proxied_source().port()));
  }
  fields->Add("opened", When(connection.opened_at()));
  if (connection.has_last_used_at()) fields->Add("used", When(connection.last_used_at()));
  fields->Add("received", absl::StrCat(offsets.received(), " bytes; read up to ",
                                       offsets.read_offset(), ", kept from ", offsets.read_kept()));
  fields->Add("sent",
              absl::StrCat(offsets.write_offset(), " bytes; the kernel has ", offsets.flushed()));
  if (connection.bound())
    fields->Add("bound", absl::StrCat("to a session, epoch ", connection.epoch()));
  if (connection.options().has_lease())
    fields->Add("lease", DurationText(connection.options().lease()));
  if (!connection.options().labels().empty()) {
    fields->Add("labels", LabelsText(connection.options().labels()));
  }
  if (connection.has_tls()) DescribeTls(connection.tls(), fields);
  if (extra != nullptr && extra->has_socket()) fields->Add("socket", SocketText(extra->socket()));
}

void Describe(const v1::Server& server, Fields* fields) {
  fields->Add("handle", HandleText(server.handle()));
  fields->Add("name", server.name());
  fields->Add("state", server.closed() ? "closed" : server.is_serving() ? "serving" : "waiting");
  if (server.closed()) {
    fields->Add("closed", When(server.closed_at()));
    fields->Add("because", server.close_message());
  }
  for (const v1::Endpoint& endpoint : server.sockets())
    fields->Add("listens on", EndpointText(endpoint));
  fields->Add("started", When(server.started_at()));
  if (server.has_last_used_at()) fields->Add("used", When(server.last_used_at()));
  fields->Add("connections",
              absl::StrCat(server.active_connections(), " open, ", server.accepted_total(),
                           " accepted in all, ", server.unclaimed(), " unclaimed"));
  fields->Add("accepting", absl::StrCat(server.waiting_accepts(), " calls wait"));
  if (server.options().has_lease()) fields->Add("lease", DurationText(server.options().lease()));
  if (!server.options().labels().empty())
    fields->Add("labels", LabelsText(server.options().labels()));
}

}  // namespace

int RunInfo(BrokerLink& link, const std::string& handle, bool json) {
  const absl::StatusOr<NamedHandle> named = ResolveHandle(link, handle);
  if (!named.ok()) return FailWith(named.status());
  Fields fields;
  if (named->is_server) {
    v1::GetServerRequest request;
    request.set_handle(named->handle);
    v1::Server server;
    const grpc::Status status = link.Call(&BrokerLink::Stub::GetServer, request, &server);
    if (!status.ok())
      return FailWith(ToAbslStatus(link.address(), absl::StrCat("info ", handle), status));
    if (json) return PrintLine(MessageJson(server));
    Describe(server, &fields);
    return PrintLine(fields.Text());
  }
  v1::GetConnectionRequest request;
  request.set_handle(named->handle);
  v1::Connection connection;
  const grpc::Status status = link.Call(&BrokerLink::Stub::GetConnection, request, &connection);
  if (!status.ok())
    return FailWith(ToAbslStatus(link.address(), absl::StrCat("info ", handle), status));
  v1::GetExtraInfoRequest extra_request;
  extra_request.set_handle(named->handle);
  extra_request.set_name("socket");
  v1::GetExtraInfoResponse extra;
  // A closed one has no socket any more; that is no error here.
  const bool has_extra = connection.state() != v1::CONNECTION_STATE_CLOSED &&
                         link.Call(&BrokerLink::Stub::GetExtraInfo, extra_request, &extra).ok();
  if (json) {
    if (!has_extra || !extra.has_socket()) return PrintLine(MessageJson(connection));
    std::string text = MessageJson(connection);
    text.pop_back();
    return PrintLine(absl::StrCat(text, ",\"socket\":", MessageJson(extra.socket()), "}"));
  }
  Describe(connection, has_extra ? &extra : nullptr, &fields);
  return PrintLine(fields.Text());
}

}  // namespace sockbroker::client
