// Owners and error texts for OpenSSL. Only the TLS files of streams/ include OpenSSL's headers,
// through this.
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "streams/tls_context.h"

namespace sockbroker::streams {

namespace internal {

template <auto Free>
struct OpensslDeleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using BioPtr = std::unique_ptr<BIO, OpensslDeleter<BIO_free_all>>;
using EvpKeyPtr = std::unique_ptr<EVP_PKEY, OpensslDeleter<EVP_PKEY_free>>;
using GeneralNamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDeleter<GENERAL_NAMES_free>>;
using SessionPtr = std::unique_ptr<SSL_SESSION, OpensslDeleter<SSL_SESSION_free>>;
using SslCtxPtr = std::unique_ptr<SSL_CTX, OpensslDeleter<SSL_CTX_free>>;
using X509Ptr = std::unique_ptr<X509, OpensslDeleter<X509_free>>;

// The oldest error of this thread's queue in words, "" when it is empty; empties the queue.
std::string TakeOpensslError();

}  // namespace internal

struct TlsContext::State {
  TlsContextOptions options;  // without the key material
  internal::SslCtxPtr ctx;
  std::string alpn_wire;

  // A client's tickets, the latest per server_hostname.
  mutable std::mutex sessions_mutex;
  mutable std::map<std::string, internal::SessionPtr> sessions;  // under sessions_mutex
};

}  // namespace sockbroker::streams
