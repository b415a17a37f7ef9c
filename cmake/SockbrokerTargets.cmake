# The functions with which every directory declares what it builds.
#
# sockbroker_add_library(<name> SRCS <file>... [DEPS <target>...] [PRIVATE_DEPS <target>...])
#     Static library sockbroker::<name>. Without any .cc among SRCS: an interface library.
#
# sockbroker_add_executable(<name> SRCS <file>... [DEPS <target>...] [INSTALL])
#     Program build/<preset>/<name>, part of the target `programs`; INSTALL puts it into bin/ on installation.
#
# sockbroker_add_test(<name> SRCS <file>... [DEPS <target>...] [LABELS <label>...] [TIMEOUT <seconds>])
#     GoogleTest program build/<preset>/tests/<name> with main() and gmock; each case is a test of ctest,
#     named <name>.<Suite>.<Case>. TIMEOUT is per case, 120 unless given.
#
# sockbroker_add_command_test(<name> COMMAND <word>... [NEEDS <target>...] [LABELS ...] [TIMEOUT <seconds>]
#                             [ENVIRONMENT <VAR=value>...] [PROPERTIES <property> <value>...])
#     A script as a test of ctest, left out (disabled) when a target it NEEDS is not built. It finds SOCKBROKER_BUILD_DIR, SOCKBROKER_SOURCE_DIR and PYTHONPATH (with the
#     generated Python messages) in its environment. Exit status 77 means skipped.
#
# sockbroker_add_benchmark(<name> SRCS <file>... [DEPS <target>...])
#     Google Benchmark program build/<preset>/bench/<name>; it writes its own main() or BENCHMARK_MAIN().
#
# sockbroker_add_fuzzer(<name> SRCS <file>... [DEPS <target>...])
#     libFuzzer program build/fuzz/fuzz/<name>, for ./dev fuzz; only where SOCKBROKER_FUZZ is on.
#
# sockbroker_add_proto_library(<name> PROTOS <file.proto>... [IMPORT_ROOT <dir>] [DEPS <target>...] [GRPC] [PYTHON])
#     Runs protoc over PROTOS, given relative to IMPORT_ROOT (default: the current directory), and makes
#     sockbroker::<name> of the result. Generated headers are included by the proto's own path:
#     "sockbroker/v1/x.pb.h". GRPC adds what the files with a service in them need ("sockbroker/v1/x.grpc.pb.h",
#     linking gRPC::grpc++); PYTHON also generates modules into build/<preset>/python.
#
# Headers are included from the root of the repository: #include "streams/task.h".

set(SOCKBROKER_GENERATED_DIR "${PROJECT_BINARY_DIR}/gen")
set(SOCKBROKER_GENERATED_PYTHON_DIR "${PROJECT_BINARY_DIR}/python")

configure_file("${CMAKE_CURRENT_LIST_DIR}/version.h.in" "${SOCKBROKER_GENERATED_DIR}/sockbroker/version.h"
               @ONLY)

# What install() names no component for belongs to the package of the programs (see SockbrokerInstall.cmake), and
# installing builds nothing: tests and benchmarks would be in it.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME sockbroker)
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)

# What a user runs, without tests and benchmarks: every sockbroker_add_executable and the generated Python.
add_custom_target(programs)

# Fails on an argument that no keyword claims: a misspelt keyword would otherwise be swallowed silently.
macro(_sockbroker_parse name options one_value multi_value)
  cmake_parse_arguments(ARG "${options}" "${one_value}" "${multi_value}" ${ARGN})
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${CMAKE_CURRENT_FUNCTION}(${name}): unexpected ${ARG_UNPARSED_ARGUMENTS}")
  endif()
endmacro()

function(_sockbroker_program target directory)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_include_directories(${target} SYSTEM PRIVATE "${SOCKBROKER_GENERATED_DIR}")
  target_link_libraries(${target} PRIVATE sockbroker_options Threads::Threads)
  if(TARGET sockbroker_sanitizer_options)
    target_link_libraries(${target} PRIVATE sockbroker_sanitizer_options)
  endif()
  set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${directory}")
endfunction()

function(sockbroker_add_library name)
  _sockbroker_parse(${name} "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  set(target sockbroker_${name})
  set(compiled ${ARG_SRCS})
  list(FILTER compiled INCLUDE REGEX "[.](cc|cpp)$")
  if(compiled)
    add_library(${target} STATIC ${ARG_SRCS})
    set(scope PUBLIC)
    # How we compile is nobody's business who uses what is installed.
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:sockbroker_options> ${ARG_PRIVATE_DEPS})
  else()
    add_library(${target} INTERFACE ${ARG_SRCS})
    set(scope INTERFACE)
  endif()
  add_library(sockbroker::${name} ALIAS ${target})
  target_include_directories(${target} ${scope} "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>"
                                       "$<INSTALL_INTERFACE:include/sockbroker>")
  target_link_libraries(${target} ${scope} ${ARG_DEPS})
endfunction()

function(sockbroker_add_executable name)
  _sockbroker_parse(${name} "INSTALL" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  _sockbroker_program(${name} "${PROJECT_BINARY_DIR}")
  add_dependencies(programs ${name})
  if(ARG_INSTALL)
    install(TARGETS ${name})
  endif()
endfunction()

function(sockbroker_add_test name)
  _sockbroker_parse(${name} "" "TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(labels)
  if(ARG_LABELS)
    set(labels LABELS "${ARG_LABELS}")
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  _sockbroker_program(${name} "${PROJECT_BINARY_DIR}/tests")
  # Cases are listed when ctest runs: a build then never waits for (or fails in) a program it has just built.
  gtest_discover_tests(
    ${name}
    TEST_PREFIX ${name}.
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} ${labels})
endfunction()

function(sockbroker_add_command_test name)
  _sockbroker_parse(${name} "" "TIMEOUT" "COMMAND;NEEDS;LABELS;ENVIRONMENT;PROPERTIES" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(
    ${name}
    PROPERTIES TIMEOUT
               ${ARG_TIMEOUT}
               SKIP_RETURN_CODE
               77
               ENVIRONMENT_MODIFICATION
               "PYTHONPATH=path_list_prepend:${SOCKBROKER_GENERATED_PYTHON_DIR}"
               ENVIRONMENT
               "SOCKBROKER_BUILD_DIR=${PROJECT_BINARY_DIR};SOCKBROKER_SOURCE_DIR=${PROJECT_SOURCE_DIR};${ARG_ENVIRONMENT}"
               LABELS
               "${ARG_LABELS}")
  if(ARG_PROPERTIES)
    set_tests_properties(${name} PROPERTIES ${ARG_PROPERTIES})
  endif()
  foreach(target IN LISTS ARG_NEEDS)
    if(NOT TARGET ${target})
      set_tests_properties(${name} PROPERTIES DISABLED ON)
    endif()
  endforeach()
endfunction()

function(sockbroker_add_benchmark name)
  _sockbroker_parse(${name} "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} benchmark::benchmark)
  _sockbroker_program(${name} "${PROJECT_BINARY_DIR}/bench")
endfunction()

function(sockbroker_add_fuzzer name)
  _sockbroker_parse(${name} "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  _sockbroker_program(${name} "${PROJECT_BINARY_DIR}/fuzz")
endfunction()

function(sockbroker_add_proto_library name)
  _sockbroker_parse(${name} "GRPC;PYTHON" "IMPORT_ROOT" "PROTOS;DEPS" ${ARGN})
  if(NOT ARG_IMPORT_ROOT)
    set(ARG_IMPORT_ROOT "${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
  set(inputs)
  set(service_inputs)
  set(sources)
  set(headers)
  set(python)
  foreach(proto IN LISTS ARG_PROTOS)
    list(APPEND inputs "${ARG_IMPORT_ROOT}/${proto}")
    string(REGEX REPLACE "[.]proto$" "" stem "${proto}")
    list(APPEND sources "${SOCKBROKER_GENERATED_DIR}/${stem}.pb.cc")
    list(APPEND headers "${SOCKBROKER_GENERATED_DIR}/${stem}.pb.h")
    # Compiling the gRPC part of a file without a service takes seconds and gives nothing.
    set(services)
    if(ARG_GRPC)
      file(STRINGS "${ARG_IMPORT_ROOT}/${proto}" services REGEX "^[ \t]*service[ \t]")
      set_property(
        DIRECTORY
        APPEND
        PROPERTY CMAKE_CONFIGURE_DEPENDS "${ARG_IMPORT_ROOT}/${proto}")
    endif()
    if(services)
      list(APPEND service_inputs "${ARG_IMPORT_ROOT}/${proto}")
      list(APPEND sources "${SOCKBROKER_GENERATED_DIR}/${stem}.grpc.pb.cc")
      list(APPEND headers "${SOCKBROKER_GENERATED_DIR}/${stem}.grpc.pb.h")
    endif()
    string(REPLACE "-" "_" stem "${stem}")
    list(APPEND python "${SOCKBROKER_GENERATED_PYTHON_DIR}/${stem}_pb2.py")
    if(services)
      list(APPEND python "${SOCKBROKER_GENERATED_PYTHON_DIR}/${stem}_pb2_grpc.py")
    endif()
  endforeach()

  set(grpc_command)
  if(service_inputs)
    # Mocks of the stubs, for tests, come with it: x_mock.grpc.pb.h.
    set(grpc_command
        COMMAND
        protobuf::protoc
        "--proto_path=${ARG_IMPORT_ROOT}"
        "--grpc_out=generate_mock_code=true:${SOCKBROKER_GENERATED_DIR}"
        "--plugin=protoc-gen-grpc=${SOCKBROKER_GRPC_CPP_PLUGIN}"
        ${service_inputs})
  endif()
  add_custom_command(
    OUTPUT ${sources} ${headers}
    COMMAND ${CMAKE_COMMAND} -E make_directory "${SOCKBROKER_GENERATED_DIR}"
    COMMAND protobuf::protoc "--proto_path=${ARG_IMPORT_ROOT}" "--cpp_out=${SOCKBROKER_GENERATED_DIR}"
            ${inputs} ${grpc_command}
    DEPENDS ${inputs}
    COMMENT "Generating C++ of sockbroker::${name}"
    VERBATIM)

  set(target sockbroker_${name})
  add_library(${target} STATIC ${sources} ${headers})
  add_library(sockbroker::${name} ALIAS ${target})
  # Generated code is not ours to warn about; it still gets sanitizers and hardening.
  target_compile_options(${target} PRIVATE -w)
  target_include_directories(${target} SYSTEM PUBLIC "$<BUILD_INTERFACE:${SOCKBROKER_GENERATED_DIR}>"
                                                     "$<INSTALL_INTERFACE:include/sockbroker>")
  target_link_libraries(
    ${target}
    PUBLIC protobuf::libprotobuf ${ARG_DEPS}
    PRIVATE $<BUILD_INTERFACE:sockbroker_options>)
  if(ARG_GRPC)
    target_link_libraries(${target} PUBLIC gRPC::grpc++)
  endif()
  set_target_properties(${target} PROPERTIES CXX_CLANG_TIDY "")

  if(ARG_PYTHON AND SOCKBROKER_GRPC_PYTHON_PLUGIN)
    set(grpc_command)
    if(service_inputs)
      set(grpc_command
          COMMAND
          protobuf::protoc
          "--proto_path=${ARG_IMPORT_ROOT}"
          "--grpc_out=${SOCKBROKER_GENERATED_PYTHON_DIR}"
          "--plugin=protoc-gen-grpc=${SOCKBROKER_GRPC_PYTHON_PLUGIN}"
          ${service_inputs})
    endif()
    add_custom_command(
      OUTPUT ${python}
      COMMAND ${CMAKE_COMMAND} -E make_directory "${SOCKBROKER_GENERATED_PYTHON_DIR}"
      COMMAND protobuf::protoc "--proto_path=${ARG_IMPORT_ROOT}"
              "--python_out=${SOCKBROKER_GENERATED_PYTHON_DIR}" ${inputs} ${grpc_command}
      DEPENDS ${inputs}
      COMMENT "Generating Python of sockbroker::${name}"
      VERBATIM)
    add_custom_target(${target}_python ALL DEPENDS ${python})
    add_dependencies(programs ${target}_python)
  endif()
endfunction()
