#include "client/tls_flags.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/pem_file.h"
#include "client/starttls.h"
#include "client/suggestion.h"
#include "transport/utf8.h"

namespace sockbroker::client {
namespace {

constexpr absl::string_view kStore = "store:";

absl::Status Misuse(absl::string_view text) { return absl::InvalidArgumentError(text); }

// Fills in one of the two.
absl::Status ReadCa(absl::string_view option, const std::string& ca, v1::TlsOptions* tls) {
  if (ca.empty()) return absl::OkStatus();
  if (absl::StartsWith(ca, kStore)) {
    if (!IsUtf8(ca)) return Misuse(absl::StrCat(option, ": the NAME must be text in UTF-8"));
    tls->set_ca_name(ca.substr(kStore.size()));
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> pem = ReadPemFile(option, ca);
  if (!pem.ok()) return pem.status();
  absl::Status status = CheckRoots(option, ca, *pem);
  tls->set_ca_pem(*std::move(pem));
  return status;
}

absl::Status ReadIdentity(const std::string& certificate, const std::string& key,
                          v1::TlsOptions* tls) {
  if (certificate.empty()) {
    return key.empty() ? absl::OkStatus() : Misuse("--key needs --cert too: the key's certificate");
  }
  if (absl::StartsWith(certificate, kStore)) {
    if (!IsUtf8(certificate)) return Misuse("--cert: the NAME must be text in UTF-8");
    if (!key.empty()) return Misuse("--cert store:NAME has its key in the store: leave --key out");
    tls->set_identity_name(certificate.substr(kStore.size()));
    return absl::OkStatus();
  }
  absl::StatusOr<std::string> pem = ReadPemFile("--cert", certificate);
  if (!pem.ok()) return pem.status();
  if (key.empty() && !HasPrivateKey(*pem)) {
    return Misuse(absl::StrCat("--cert needs --key too: ", certificate, " holds no private key"));
  }
  absl::StatusOr<std::string> key_pem = key.empty() ? pem : ReadPemFile("--key", key);
  if (!key_pem.ok()) return key_pem.status();
  const std::string& key_file = key.empty() ? certificate : key;
  if (!HasPrivateKey(*key_pem)) {
    return Misuse(absl::StrCat("--key: ", key_file, " holds no private key"));
  }
  if (HasEncryptedPrivateKey(*key_pem)) {
    return Misuse(absl::StrCat("the private key in ", key_file,
                               " needs a passphrase; `openssl pkey -in ", key_file,
                               " -out FILE` makes one that doesn't"));
  }
  absl::Status status = CheckIdentity({"--cert", certificate, *pem},
                                      {key.empty() ? "--cert" : "--key", key_file, *key_pem});
  tls->set_certificate_pem(*std::move(pem));
  tls->set_private_key_pem(*std::move(key_pem));
  return status;
}

absl::Status SplitAlpn(const std::string& list, v1::TlsOptions* tls) {
  if (list.empty()) return absl::OkStatus();
  for (const absl::string_view protocol : absl::StrSplit(list, ',')) {
    if (protocol.empty() || protocol.size() > 255) {
      return Misuse("--alpn takes names of 1 to 255 bytes, separated by commas");
    }
    tls->add_alpn(std::string(protocol));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::TlsOptions> MakeClientTls(const ClientTlsFlags& flags, absl::string_view host) {
  v1::TlsOptions tls;
  if (!flags.starttls.empty()) {
    const std::vector<std::string>& known = StartTlsProtocols();
    if (std::find(known.begin(), known.end(), flags.starttls) == known.end()) {
      const std::string near = Suggest(flags.starttls, known);
      return Misuse(absl::StrCat("--starttls knows no '", flags.starttls, "'; ",
                                 near.empty()
                                     ? absl::StrCat("it knows ", absl::StrJoin(known, ", "))
                                     : absl::StrCat("did you mean '", near, "'?")));
    }
  }
  absl::Status status = ReadCa("--cacert", flags.ca, &tls);
  if (status.ok()) status = ReadIdentity(flags.certificate, flags.key, &tls);
  if (status.ok()) status = SplitAlpn(flags.alpn, &tls);
  if (!status.ok()) return status;
  if (flags.server_name.has_value()) {
    tls.set_server_hostname(*flags.server_name);
  } else if (!host.empty() || flags.insecure) {
    tls.set_server_hostname(std::string(host));
  } else {
    return Misuse(
        "a Unix socket has no host name: --servername NAME says whom the certificate must be for "
        "(--servername '': anybody whom the CA vouches for)");
  }
  if (flags.insecure) {
    tls.set_verify(v1::TLS_VERIFY_NONE);
    tls.set_check_hostname(false);
  }
  // As with TCP: the peer's end is the end of its direction alone, where TLS lets it.
  tls.set_allow_half_close(true);
  return tls;
}

absl::StatusOr<v1::TlsOptions> MakeServerTls(const ServerTlsFlags& flags) {
  if (flags.certificate.empty()) {
    return Misuse("--tls needs --cert FILE and --key FILE, or --cert store:NAME");
  }
  v1::TlsOptions tls;
  absl::Status status = ReadIdentity(flags.certificate, flags.key, &tls);
  if (status.ok()) status = ReadCa("--client-ca", flags.client_ca, &tls);
  if (status.ok()) status = SplitAlpn(flags.alpn, &tls);
  if (!status.ok()) return status;
  tls.set_allow_half_close(true);
  return tls;
}

absl::Status CheckWithoutTls(const ClientTlsFlags& flags) {
  for (const auto& [option, given] :
       {std::pair{"--cacert", !flags.ca.empty()}, std::pair{"--cert", !flags.certificate.empty()},
        std::pair{"--key", !flags.key.empty()},
        std::pair{"--servername", flags.server_name.has_value()},
        std::pair{"--alpn", !flags.alpn.empty()}, std::pair{"--insecure", flags.insecure}}) {
    if (given) return Misuse(absl::StrCat(option, " needs --tls or --starttls"));
  }
  return absl::OkStatus();
}

absl::Status CheckWithoutTls(const ServerTlsFlags& flags) {
  for (const auto& [option, given] :
       {std::pair{"--cert", !flags.certificate.empty()}, std::pair{"--key", !flags.key.empty()},
        std::pair{"--client-ca", !flags.client_ca.empty()},
        std::pair{"--alpn", !flags.alpn.empty()}}) {
    if (given) return Misuse(absl::StrCat(option, " needs --tls"));
  }
  return absl::OkStatus();
}

}  // namespace sockbroker::client
