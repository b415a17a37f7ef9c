#include "client/notes.h"

#include <netdb.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/console.h"
#include "client/endpoint_text.h"
#include "client/handle_text.h"
#include "client/json_output.h"
#include "client/tls_text.h"

namespace sockbroker::client {
namespace {

// The name this machine's /etc/services has for the port; "*" without one, as nc prints.
std::string ServiceName(uint32_t port) {
  servent entry{};
  servent* found = nullptr;
  char buffer[1024];
  if (getservbyport_r(htons(static_cast<uint16_t>(port)), "tcp", &entry, buffer, sizeof(buffer),
                      &found) != 0 ||
      found == nullptr) {
    return "*";
  }
  return found->s_name;
}

absl::string_view EndWord(PumpResult::End end) {
  switch (end) {
    case PumpResult::End::kDone:
      return "done";
    case PumpResult::End::kOutputClosed:
      return "output_closed";
    case PumpResult::End::kQuitTimer:
      return "quit";
    case PumpResult::End::kIdle:
      return "idle";
    case PumpResult::End::kInterrupted:
      return "interrupted";
    case PumpResult::End::kFailed:
      return "failed";
  }
  return "";
}

}  // namespace

std::string EndpointJson(const v1::Endpoint& endpoint) {
  JsonLine line;
  if (endpoint.kind_case() == v1::Endpoint::kTcp) {
    line.Add("host", endpoint.tcp().host()).Add("port", endpoint.tcp().port());
  } else if (endpoint.kind_case() == v1::Endpoint::kUnix) {
    line.Add("unix", UnixPathText(endpoint.unix()));
  } else if (endpoint.kind_case() == v1::Endpoint::kAdopted) {
    line.Add("adopted", endpoint.adopted());
  }
  return line.Text();
}

std::string ConnectedText(absl::string_view host, absl::string_view port,
                          const v1::Endpoint& peer) {
  if (peer.kind_case() != v1::Endpoint::kTcp)
    return absl::StrCat("Connection to ", host, " succeeded!");
  const std::string address =
      peer.tcp().host() == host ? "" : absl::StrCat(" (", peer.tcp().host(), ")");
  return absl::StrCat("Connection to ", host, address, " ", port, " port [tcp/",
                      ServiceName(peer.tcp().port()), "] succeeded!");
}

void Notes::Listening(const v1::Server& server, bool needed) const {
  if (json_) {
    std::vector<std::string> sockets;
    for (const v1::Endpoint& endpoint : server.sockets()) sockets.push_back(EndpointJson(endpoint));
    JsonLine line;
    line.Add("event", "listening").Add("handle", HandleText(server.handle()));
    // The first on its own, because there mostly is but one.
    if (server.sockets_size() > 0 && server.sockets(0).has_tcp()) {
      line.Add("host", server.sockets(0).tcp().host()).Add("port", server.sockets(0).tcp().port());
    }
    PrintNote(line.AddJson("sockets", absl::StrCat("[", absl::StrJoin(sockets, ","), "]")).Text());
    return;
  }
  if (!verbose_ && !needed) return;
  for (const v1::Endpoint& endpoint : server.sockets()) {
    PrintNote(Printable(absl::StrCat("Listening on ", HostPortText(endpoint))));
  }
}

void Notes::Received(const v1::Connection& connection) const {
  if (json_) {
    PrintNote(JsonLine()
                  .Add("event", "received")
                  .Add("handle", HandleText(connection.handle()))
                  .AddJson("local", EndpointJson(connection.local()))
                  .AddJson("peer", EndpointJson(connection.peer()))
                  .Text());
  } else if (verbose_) {
    const bool unnamed =
        connection.peer().kind_case() == v1::Endpoint::kUnix && connection.peer().unix().empty();
    PrintNote(
        Printable(absl::StrCat("Connection received on ",
                               HostPortText(unnamed ? connection.local() : connection.peer()))));
  }
}

void Notes::Connected(absl::string_view host, absl::string_view port,
                      const v1::Connection& connection) const {
  if (json_) {
    PrintNote(JsonLine()
                  .Add("event", "connected")
                  .Add("handle", HandleText(connection.handle()))
                  .AddJson("local", EndpointJson(connection.local()))
                  .AddJson("peer", EndpointJson(connection.peer()))
                  .Text());
  } else if (verbose_) {
    PrintNote(Printable(ConnectedText(host, port, connection.peer())));
  }
}

void Notes::Tls(const v1::Connection& connection) const {
  if (json_) {
    v1::TlsInfo tls = connection.tls();
    // Long, and to be had by `info`.
    for (v1::Certificate& certificate : *tls.mutable_peer_certificates()) certificate.clear_der();
    PrintNote(JsonLine()
                  .Add("event", "tls")
                  .Add("handle", HandleText(connection.handle()))
                  .AddJson("tls", MessageJson(tls))
                  .Text());
    return;
  }
  if (!verbose_) return;
  const v1::TlsInfo& tls = connection.tls();
  std::string text = TlsSummary(tls);
  if (!tls.peer_certificates().empty()) {
    const v1::Certificate& certificate = tls.peer_certificates(0);
    absl::StrAppend(&text, "; certificate of ", certificate.subject(), " by ", certificate.issuer(),
                    ", ", ExpiryText(certificate, absl::Now()));
  }
  if (tls.verify_code() != 0) absl::StrAppend(&text, "; ", VerifyText(tls));
  PrintNote(Printable(text));
}

void Notes::Attached(const v1::Connection& connection, uint64_t read_offset,
                     uint64_t write_offset) const {
  if (json_) {
    PrintNote(JsonLine()
                  .Add("event", "attached")
                  .Add("handle", HandleText(connection.handle()))
                  .AddJson("local", EndpointJson(connection.local()))
                  .AddJson("peer", EndpointJson(connection.peer()))
                  .Add("read_offset", read_offset)
                  .Add("write_offset", write_offset)
                  .Text());
  } else if (verbose_) {
    PrintNote(Printable(absl::StrCat("Attached to the connection to ",
                                     HostPortText(connection.peer()), ": reads from byte ",
                                     read_offset, " on, writes from byte ", write_offset, " on")));
  }
}

void Notes::Left(const v1::Connection& connection, uint64_t read_offset,
                 uint64_t write_offset) const {
  if (json_) {
    PrintNote(JsonLine()
                  .Add("event", "left")
                  .Add("handle", HandleText(connection.handle()))
                  .Add("read_offset", read_offset)
                  .Add("write_offset", write_offset)
                  .Text());
    return;
  }
  PrintNote(absl::StrCat("Left open; `sockbroker attach ",
                         HandleText(connection.handle()).substr(0, 12), "` goes on"));
}

void Notes::LinkBroken(const absl::Status& reason) const {
  if (json_) {
    PrintNote(JsonLine().Add("event", "link_broken").Add("reason", reason.message()).Text());
  } else if (verbose_) {
    PrintNote(Printable(
        absl::StrCat("The link to the broker broke (", reason.message(), "); it is made again")));
  }
}

void Notes::LinkRestored() const {
  if (json_) {
    PrintNote(JsonLine().Add("event", "link_restored").Text());
  } else if (verbose_) {
    PrintNote("The link to the broker is back: going on where it broke");
  }
}

void Notes::Ended(const v1::Connection& connection, const PumpResult& result) const {
  if (json_) {
    PrintNote(JsonLine()
                  .Add("event", "ended")
                  .Add("handle", HandleText(connection.handle()))
                  .Add("end", EndWord(result.end))
                  .Add("sent", result.sent)
                  .Add("received", result.received)
                  .Text());
  } else if (verbose_) {
    PrintNote(absl::StrCat("Sent ", result.sent, " bytes, received ", result.received));
  }
}

}  // namespace sockbroker::client
