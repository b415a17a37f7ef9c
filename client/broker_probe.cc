#include "client/broker_probe.h"

#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "streams/error.h"
#include "streams/event_loop.h"
#include "streams/open_connection.h"
#include "streams/tls_context.h"
#include "streams/wait_for.h"

namespace sockbroker::client {
namespace {

using streams::Task;

constexpr absl::Duration kPatience = absl::Seconds(2);
constexpr char kStart[] = "; start `sockbrokerd`, or name another with -b ADDRESS";
constexpr char kNoBroker[] =
    "what answers there is no sockbrokerd; name another address with -b ADDRESS";

struct Place {
  std::string host;
  int port = 0;
};

Place PlaceOf(const BrokerAddress& address) {
  const std::size_t colon = address.text().rfind(':');
  absl::string_view host = absl::string_view(address.text()).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  Place place{std::string(host)};
  (void)absl::SimpleAtoi(absl::string_view(address.text()).substr(colon + 1), &place.port);
  return place;
}

Task<absl::StatusOr<streams::Connection>> Dial(const Place& place, const BrokerTls* tls) {
  streams::OpenConnectionOptions options;
  options.happy_eyeballs_delay = absl::Milliseconds(250);
  options.connect_timeout = kPatience;
  if (tls != nullptr) {
    streams::TlsContextOptions context;
    context.ca_pem = tls->ca();
    // Without roots it is only asked whether TLS is spoken.
    context.verify = tls->enabled() ? streams::TlsVerify::kRequired : streams::TlsVerify::kNone;
    context.certificate_pem = tls->certificate();
    context.private_key_pem = tls->key();
    context.alpn = {"h2"};
    auto made = streams::TlsContext::Create(std::move(context));
    if (!made.ok()) co_return made.status();
    options.tls.context = *std::move(made);
    options.tls.handshake_timeout = kPatience;
  }
  co_return co_await streams::OpenConnection(place.host, place.port, std::move(options));
}

// Of the attempt without TLS: the way there.
std::string WayText(const Place& place, const absl::Status& status) {
  if (absl::IsNotFound(status)) {
    return absl::StrCat("the name ", place.host, " is not known (",
                        streams::GetResolverError(status).value_or("no address"),
                        "); name another with -b ADDRESS");
  }
  if (absl::IsDeadlineExceeded(status)) return absl::StrCat("no answer", kStart);
  int error = streams::GetErrno(status);
  for (const streams::AttemptFailure& attempt : streams::GetAttempts(status)) {
    if (error == 0) error = attempt.os_errno;
  }
  if (error == 0) return "";
  char buffer[128];
  return absl::StrCat(strerror_r(error, buffer, sizeof(buffer)), kStart);
}

// Whether the peer's own TLS said so.
bool IsAlert(const absl::Status& status) { return absl::StrContains(status.message(), "alert"); }

std::string CertificateText(const absl::Status& status, const BrokerTls& tls) {
  if (tls.certificate().empty()) {
    return "it demands a certificate: --broker-cert FILE and --broker-key FILE";
  }
  return absl::StrCat("it does not accept the certificate of --broker-cert",
                      IsAlert(status) ? absl::StrCat(" (", status.message(), ")") : "",
                      "; whoever its --tls-client-ca vouches for may come");
}

std::string TlsText(const absl::Status& status, const BrokerTls& tls) {
  if (const auto failure = streams::GetTlsVerifyFailure(status); failure.has_value()) {
    return absl::StrCat("the broker's certificate is not accepted (", failure->text,
                        "); --broker-cacert FILE names who vouches for it");
  }
  if (IsAlert(status)) return CertificateText(status, tls);
  if (absl::IsDeadlineExceeded(status)) return absl::StrCat("no answer", kStart);
  return "what answers there speaks no TLS; leave --broker-cacert (SOCKBROKER_CACERT) out for a "
         "broker without, or name another address with -b ADDRESS";
}

Task<std::string> Look(const BrokerAddress& address) {
  const Place place = PlaceOf(address);
  {
    absl::StatusOr<streams::Connection> plain = co_await Dial(place, nullptr);
    if (!plain.ok()) co_return WayText(place, plain.status());
  }
  const BrokerTls& tls = address.tls();
  absl::StatusOr<streams::Connection> secure = co_await Dial(place, &tls);
  if (!tls.enabled()) {
    co_return secure.ok() || IsAlert(secure.status())
        ? "it wants TLS: --broker-cacert FILE, with --broker-cert FILE and --broker-key FILE"
        : kNoBroker;
  }
  if (!secure.ok()) co_return TlsText(secure.status(), tls);
  // TLS 1.3: what the broker thinks of our certificate comes behind the handshake, if it says
  // anything at all before it ends the connection.
  absl::StatusOr<absl::Cord> first = co_await streams::WaitFor(secure->reader.Read(1), kPatience);
  if (absl::IsDeadlineExceeded(first.status()) || (first.ok() && !first->empty())) co_return "";
  co_return CertificateText(first.status(), tls);
}

}  // namespace

std::string WhyNoBroker(const BrokerAddress& address) {
  std::string why;
  // With a loop of its own: the caller may stand in one.
  std::thread thread([&] {
    streams::EventLoop loop;
    why = loop.RunUntilComplete(Look(address));
  });
  thread.join();
  return why;
}

}  // namespace sockbroker::client
