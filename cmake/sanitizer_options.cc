// Run-time options of the sanitizers, compiled into every program of a sanitizer build.
//
// Here and not in an environment variable, so that they hold for a test, for the daemon a test
// starts and for a program started by hand alike. ASAN_OPTIONS and its kin still override them:
//
//   ASAN_OPTIONS=detect_leaks=0 build/asan/tests/streams_task_test

// NOLINTBEGIN(bugprone-reserved-identifier): the names are the sanitizers' own.

#define SOCKBROKER_EXPORT extern "C" __attribute__((visibility("default"), used))

SOCKBROKER_EXPORT const char* __asan_default_options();
SOCKBROKER_EXPORT const char* __asan_default_options() {
  return "detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1:"
         "strict_init_order=1:detect_leaks=1:external_symbolizer_path=" SOCKBROKER_SYMBOLIZER;
}

SOCKBROKER_EXPORT const char* __ubsan_default_options();
SOCKBROKER_EXPORT const char* __ubsan_default_options() {
  return "print_stacktrace=1:external_symbolizer_path=" SOCKBROKER_SYMBOLIZER;
}

SOCKBROKER_EXPORT const char* __tsan_default_options();
SOCKBROKER_EXPORT const char* __tsan_default_options() {
  return "halt_on_error=1:second_deadlock_stack=1:external_symbolizer_path=" SOCKBROKER_SYMBOLIZER;
}

// The distribution's Abseil is not instrumented: the reference count of an absl::Status is raised
// in a header, which ThreadSanitizer sees, and lowered in the library, which it does not. (The same
// blindness makes it report what absl::Mutex guards; there the remedy is std::mutex, which it
// knows.)
//
// Neither is OpenSSL: what it computes once for a certificate that connections share (names,
// extensions) it publishes by atomics of its own, and it counts who has a session by such; only its
// memcpy, memcmp and free are seen.
SOCKBROKER_EXPORT const char* __tsan_default_suppressions();
SOCKBROKER_EXPORT const char* __tsan_default_suppressions() {
  return "race:absl::*Status::Unref\n"
         "called_from_lib:libcrypto.so\n"
         "called_from_lib:libssl.so\n";
}

// NOLINTEND(bugprone-reserved-identifier)
