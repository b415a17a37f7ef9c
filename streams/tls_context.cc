#include "streams/tls_context.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/internal/openssl.h"

namespace sockbroker::streams {
namespace internal {

std::string TakeOpensslError() {
  const unsigned long code = ERR_get_error();  // NOLINT(google-runtime-int): OpenSSL's type
  ERR_clear_error();
  if (code == 0) return "";
  const char* reason = ERR_reason_error_string(code);
  if (reason != nullptr) return reason;
  char text[256];
  ERR_error_string_n(code, text, sizeof(text));
  return text;
}

}  // namespace internal

namespace {

constexpr std::size_t kMaxSessions = 1000;

absl::Status Unusable(absl::string_view what) {
  const std::string reason = internal::TakeOpensslError();
  return absl::InvalidArgumentError(reason.empty() ? absl::StrCat(what, " is unusable")
                                                   : absl::StrCat(what, ": ", reason));
}

int VersionNumber(TlsVersion version) {
  return version == TlsVersion::kTls12 ? TLS1_2_VERSION : TLS1_3_VERSION;
}

internal::BioPtr PemBio(const std::string& pem) {
  return internal::BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// A password would be asked for on a terminal otherwise.
int NoPassword(char*, int, int, void*) { return 0; }

// Reading certificates stops at the end of the PEM with an error that only says so; any other means
// that one of them is damaged.
bool StoppedAtEndOfPem() {
  const unsigned long code = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  return ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
}

absl::Status AddRoots(SSL_CTX* ctx, const std::string& pem, bool server) {
  internal::BioPtr bio = PemBio(pem);
  X509_STORE* store = SSL_CTX_get_cert_store(ctx);
  int count = 0;
  while (internal::X509Ptr root{PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)}) {
    if (X509_STORE_add_cert(store, root.get()) != 1) return Unusable("ca");
    // What a server tells its clients about whom it trusts.
    if (server && SSL_CTX_add_client_CA(ctx, root.get()) != 1) return Unusable("ca");
    count++;
  }
  if (!StoppedAtEndOfPem()) return Unusable("ca");
  ERR_clear_error();
  if (count == 0) return absl::InvalidArgumentError("ca: no certificate in PEM found");
  return absl::OkStatus();
}

absl::Status UseCertificate(SSL_CTX* ctx, const std::string& pem) {
  internal::BioPtr bio = PemBio(pem);
  internal::X509Ptr leaf(PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr));
  if (leaf == nullptr || SSL_CTX_use_certificate(ctx, leaf.get()) != 1) {
    return Unusable("certificate");
  }
  while (internal::X509Ptr link{PEM_read_bio_X509(bio.get(), nullptr, NoPassword, nullptr)}) {
    if (SSL_CTX_add0_chain_cert(ctx, link.get()) != 1) return Unusable("certificate chain");
    (void)link.release();  // the context's now
  }
  if (!StoppedAtEndOfPem()) return Unusable("certificate chain");
  ERR_clear_error();
  return absl::OkStatus();
}

absl::Status UseKey(SSL_CTX* ctx, const std::string& pem) {
  internal::BioPtr bio = PemBio(pem);
  internal::EvpKeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassword, nullptr));
  if (key == nullptr || SSL_CTX_use_PrivateKey(ctx, key.get()) != 1) {
    return Unusable("private key");
  }
  return absl::OkStatus();
}

absl::Status LoadIdentity(SSL_CTX* ctx, const TlsContextOptions& options) {
  absl::Status status;
  if (!options.certificate_file.empty()) {
    if (SSL_CTX_use_certificate_chain_file(ctx, options.certificate_file.c_str()) != 1) {
      return Unusable(absl::StrCat("certificate file ", options.certificate_file));
    }
    const std::string& key_file =
        options.private_key_file.empty() ? options.certificate_file : options.private_key_file;
    if (SSL_CTX_use_PrivateKey_file(ctx, key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
      return Unusable(absl::StrCat("private key file ", key_file));
    }
  } else if (!options.certificate_pem.empty()) {
    status = UseCertificate(ctx, options.certificate_pem);
    if (status.ok()) {
      status = UseKey(
          ctx, options.private_key_pem.empty() ? options.certificate_pem : options.private_key_pem);
    }
    if (!status.ok()) return status;
  } else if (options.side == TlsSide::kServer) {
    return absl::InvalidArgumentError("a TLS server needs a certificate and its key");
  } else {
    return absl::OkStatus();
  }
  if (SSL_CTX_check_private_key(ctx) != 1) return Unusable("private key");
  return absl::OkStatus();
}

absl::Status LoadRoots(SSL_CTX* ctx, TlsContextOptions* options) {
  const bool server = options->side == TlsSide::kServer;
  const bool has_roots = !options->ca_pem.empty() || !options->ca_file.empty();
  if (options->verify == TlsVerify::kDefault) {
    options->verify = !server || has_roots ? TlsVerify::kRequired : TlsVerify::kNone;
  }
  if (!options->ca_pem.empty()) {
    if (absl::Status status = AddRoots(ctx, options->ca_pem, server); !status.ok()) return status;
  }
  if (!options->ca_file.empty()) {
    if (SSL_CTX_load_verify_locations(ctx, options->ca_file.c_str(), nullptr) != 1) {
      return Unusable(absl::StrCat("ca file ", options->ca_file));
    }
    if (server) {
      SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(options->ca_file.c_str()));
    }
  }
  if (!has_roots && options->verify != TlsVerify::kNone) {
    if (server) {
      return absl::InvalidArgumentError("a server that verifies its clients needs a ca");
    }
    if (SSL_CTX_set_default_verify_paths(ctx) != 1) return Unusable("the system's roots");
  }
  int mode = SSL_VERIFY_NONE;
  if (options->verify != TlsVerify::kNone) mode = SSL_VERIFY_PEER;
  if (options->verify == TlsVerify::kRequired) mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  SSL_CTX_set_verify(ctx, mode, nullptr);
  // As Python: one of the chain that the store has is enough, and what RFC 5280 forbids fails.
  X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_TRUSTED_FIRST);
  return absl::OkStatus();
}

int SelectAlpn(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* in,
               unsigned int in_size, void* argument) {
  const auto* state = static_cast<const TlsContext::State*>(argument);
  unsigned char* selected = nullptr;
  const int found = SSL_select_next_proto(
      &selected, out_size, reinterpret_cast<const unsigned char*>(state->alpn_wire.data()),
      static_cast<unsigned int>(state->alpn_wire.size()), in, in_size);
  if (found != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_NOACK;
  *out = selected;
  return SSL_TLSEXT_ERR_OK;
}

const TlsContext::State* StateOf(SSL_CTX* ctx) {
  return static_cast<const TlsContext::State*>(SSL_CTX_get_app_data(ctx));
}

int KeepSession(SSL* ssl, SSL_SESSION* session) {
  const TlsContext::State* state = StateOf(SSL_get_SSL_CTX(ssl));
  const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  if (name == nullptr) return 0;
  const std::lock_guard lock(state->sessions_mutex);
  if (state->sessions.size() >= kMaxSessions) state->sessions.clear();
  state->sessions[name].reset(session);
  return 1;  // ours now
}

void WriteKeyLog(const SSL* ssl, const char* line) {
  StateOf(SSL_get_SSL_CTX(ssl))->options.key_log(line);
}

absl::Status SetAlpn(TlsContext::State* state) {
  for (const std::string& protocol : state->options.alpn) {
    if (protocol.empty() || protocol.size() > 255) {
      return absl::InvalidArgumentError("alpn: a protocol's name has 1 to 255 bytes");
    }
    state->alpn_wire.push_back(static_cast<char>(protocol.size()));
    state->alpn_wire.append(protocol);
  }
  if (state->alpn_wire.size() > 65535) {
    return absl::InvalidArgumentError("alpn: more than 65535 bytes in all");
  }
  if (state->alpn_wire.empty()) return absl::OkStatus();
  if (state->options.side == TlsSide::kServer) {
    SSL_CTX_set_alpn_select_cb(state->ctx.get(), SelectAlpn, state);
  } else if (SSL_CTX_set_alpn_protos(
                 state->ctx.get(), reinterpret_cast<const unsigned char*>(state->alpn_wire.data()),
                 static_cast<unsigned int>(state->alpn_wire.size())) != 0) {
    return Unusable("alpn");
  }
  return absl::OkStatus();
}

void SetResumption(TlsContext::State* state) {
  SSL_CTX* ctx = state->ctx.get();
  if (!state->options.session_resumption) {
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(ctx, 0);
  } else if (state->options.side == TlsSide::kClient) {
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, KeepSession);
  } else {
    // Needed as soon as clients are verified; else OpenSSL refuses to resume.
    static constexpr unsigned char kSessionContext[] = "sockbroker";
    SSL_CTX_set_session_id_context(ctx, kSessionContext, sizeof(kSessionContext) - 1);
  }
}

absl::Status Configure(TlsContext::State* state) {
  SSL_CTX* ctx = state->ctx.get();
  TlsContextOptions& options = state->options;
  SSL_CTX_set_app_data(ctx, state);
  SSL_CTX_set_default_passwd_cb(ctx, NoPassword);
  SSL_CTX_set_options(
      ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  // Idle connections hold no record buffers; written data may move, and be taken in part. The chain
  // that is shown is the one that was given: the roots are for the peer's.
  SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                            SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
  if (options.min_version > options.max_version) {
    return absl::InvalidArgumentError("min_version is above max_version");
  }
  SSL_CTX_set_min_proto_version(ctx, VersionNumber(options.min_version));
  SSL_CTX_set_max_proto_version(ctx, VersionNumber(options.max_version));
  if (!options.ciphers.empty() && SSL_CTX_set_cipher_list(ctx, options.ciphers.c_str()) != 1) {
    return Unusable("ciphers");
  }
  if (!options.ciphersuites.empty() &&
      SSL_CTX_set_ciphersuites(ctx, options.ciphersuites.c_str()) != 1) {
    return Unusable("ciphersuites");
  }
  absl::Status status = LoadRoots(ctx, &options);
  if (status.ok()) status = LoadIdentity(ctx, options);
  if (status.ok()) status = SetAlpn(state);
  if (!status.ok()) return status;
  SetResumption(state);
  if (options.key_log) SSL_CTX_set_keylog_callback(ctx, WriteKeyLog);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Create(TlsContextOptions options) {
  ERR_clear_error();
  auto state = std::make_unique<State>();
  state->options = std::move(options);
  state->ctx.reset(SSL_CTX_new(state->options.side == TlsSide::kClient ? TLS_client_method()
                                                                       : TLS_server_method()));
  if (state->ctx == nullptr) return Unusable("OpenSSL");
  absl::Status status = Configure(state.get());
  // OpenSSL has its own copy of the key; ours has no further use.
  OPENSSL_cleanse(state->options.private_key_pem.data(), state->options.private_key_pem.size());
  state->options.private_key_pem.clear();
  OPENSSL_cleanse(state->options.certificate_pem.data(), state->options.certificate_pem.size());
  state->options.certificate_pem.clear();
  if (!status.ok()) return status;
  return std::shared_ptr<const TlsContext>(new TlsContext(std::move(state)));
}

TlsContext::TlsContext(std::unique_ptr<State> state) : state_(std::move(state)) {}
TlsContext::~TlsContext() = default;
TlsSide TlsContext::side() const { return state_->options.side; }
bool TlsContext::check_hostname() const {
  return state_->options.check_hostname && state_->options.verify != TlsVerify::kNone;
}

}  // namespace sockbroker::streams
