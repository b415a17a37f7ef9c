# What `cmake --install build/release` puts in place beside the programs, which their directories install themselves, and
# how cpack makes Debian packages of it: `./dev package`. The components are the packages: what names none belongs to
# `sockbroker`, and `sockbroker-dev` is for those who write clients.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(packaging "${PROJECT_SOURCE_DIR}/packaging")
set(packaging_out "${PROJECT_BINARY_DIR}/packaging")

install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" "${PROJECT_SOURCE_DIR}/CHANGELOG.md"
              "${PROJECT_SOURCE_DIR}/README.md" DESTINATION "${CMAKE_INSTALL_DOCDIR}")

if(NOT SOCKBROKER_BUILD_BROKER)
  return()
endif()

# --- sockbroker -----------------------------------------------------------------------------------------------------

# Made from what the programs say with --help. They are installed as a directory: which words there are is not known here.
set(man_pages "${packaging_out}/man")
add_custom_command(
  OUTPUT "${man_pages}.stamp"
  COMMAND ${CMAKE_COMMAND} -E rm -rf "${man_pages}"
  COMMAND "${SOCKBROKER_PYTHON}" "${packaging}/man_pages.py" "${PROJECT_BINARY_DIR}" "${man_pages}"
  COMMAND ${CMAKE_COMMAND} -E touch "${man_pages}.stamp"
  DEPENDS sockbroker sockbrokerd "${packaging}/man_pages.py"
  COMMENT "Writing the man pages"
  VERBATIM)
add_custom_target(sockbroker_man_pages ALL DEPENDS "${man_pages}.stamp")
add_dependencies(programs sockbroker_man_pages sockbroker_completions)
foreach(section 1 8)
  install(
    DIRECTORY "${man_pages}/"
    DESTINATION "${CMAKE_INSTALL_MANDIR}/man${section}"
    FILES_MATCHING
    PATTERN "*.${section}.gz")
endforeach()

install(DIRECTORY "${packaging}/systemd/" DESTINATION lib/systemd/system PATTERN user EXCLUDE)
install(DIRECTORY "${packaging}/systemd/user/" DESTINATION lib/systemd/user)
install(
  FILES "${packaging}/sysusers.conf"
  DESTINATION lib/sysusers.d
  RENAME sockbroker.conf)
install(
  FILES "${packaging}/tmpfiles.conf"
  DESTINATION lib/tmpfiles.d
  RENAME sockbroker.conf)
install(FILES "${packaging}/sockbrokerd.default" DESTINATION "${CMAKE_INSTALL_DOCDIR}/examples")

# --- sockbroker-dev -------------------------------------------------------------------------------------------------

set(SOCKBROKER_PROTO_INSTALL_DIR "${CMAKE_INSTALL_DATADIR}/sockbroker/proto")
set(SOCKBROKER_TARGETS_INSTALL_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/sockbroker")
install(
  DIRECTORY "${PROJECT_SOURCE_DIR}/proto/"
  DESTINATION "${SOCKBROKER_PROTO_INSTALL_DIR}"
  COMPONENT sockbroker-dev
  FILES_MATCHING
  PATTERN "*.proto")
# In share/: the protos are the same on every architecture.
set(config_dir "${CMAKE_INSTALL_DATADIR}/cmake/sockbroker")
configure_package_config_file(
  "${packaging}/sockbroker-config.cmake.in" "${packaging_out}/sockbroker-config.cmake"
  INSTALL_DESTINATION "${config_dir}"
  PATH_VARS SOCKBROKER_PROTO_INSTALL_DIR SOCKBROKER_TARGETS_INSTALL_DIR)
write_basic_package_version_file("${packaging_out}/sockbroker-config-version.cmake"
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(
  FILES "${packaging_out}/sockbroker-config.cmake" "${packaging_out}/sockbroker-config-version.cmake"
  DESTINATION "${config_dir}"
  COMPONENT sockbroker-dev)

# The client library, sockbroker::client, with what it is made of; its headers in a directory of their own, where they find
# one another by the names they have here.
set(headers "${CMAKE_INSTALL_INCLUDEDIR}/sockbroker")
foreach(library client proto session streams transport)
  set_target_properties(sockbroker_${library} PROPERTIES EXPORT_NAME ${library})
  # Coroutines; and see SockbrokerToolchain.cmake for what newer clangs call some of Debian's templates.
  target_compile_features(sockbroker_${library} PUBLIC cxx_std_20)
  target_compile_options(
    sockbroker_${library}
    INTERFACE
      "$<INSTALL_INTERFACE:$<$<AND:$<CXX_COMPILER_ID:Clang>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,18>>:-fclang-abi-compat=17>>"
  )
  # In GNU's C++, which is CMake's default, `unix` is a macro; in the contract it is a field.
  target_compile_options(sockbroker_${library} INTERFACE $<INSTALL_INTERFACE:-Uunix>)
  install(
    TARGETS sockbroker_${library}
    EXPORT sockbroker-targets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT sockbroker-dev)
  add_dependencies(programs sockbroker_${library})
endforeach()
install(
  EXPORT sockbroker-targets
  NAMESPACE sockbroker::
  DESTINATION "${SOCKBROKER_TARGETS_INSTALL_DIR}"
  COMPONENT sockbroker-dev)
foreach(directory streams client/cpp)
  install(
    DIRECTORY "${PROJECT_SOURCE_DIR}/${directory}/"
    DESTINATION "${headers}/${directory}"
    COMPONENT sockbroker-dev
    FILES_MATCHING
    PATTERN "*.h"
    PATTERN testing EXCLUDE
    PATTERN examples EXCLUDE
    PATTERN include EXCLUDE
    REGEX "client/cpp/internal$" EXCLUDE)
endforeach()
install(
  DIRECTORY "${PROJECT_SOURCE_DIR}/client/cpp/include/" "${SOCKBROKER_GENERATED_DIR}/"
  DESTINATION "${headers}"
  COMPONENT sockbroker-dev
  FILES_MATCHING
  PATTERN "*.h"
  PATTERN "*_mock.grpc.pb.h" EXCLUDE)

# --- Debian packages ------------------------------------------------------------------------------------------------

# What only a package of Debian's has; `cmake --install` without a component leaves it out.
string(TIMESTAMP now "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(
  WRITE "${packaging_out}/changelog"
  "sockbroker (${PROJECT_VERSION}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
  " -- The sockbroker authors <sockbroker@localhost>  ${now}\n")
find_program(SOCKBROKER_GZIP gzip)
mark_as_advanced(SOCKBROKER_GZIP)
if(SOCKBROKER_GZIP)
  execute_process(COMMAND "${SOCKBROKER_GZIP}" -9nf "${packaging_out}/changelog")
  foreach(package sockbroker sockbroker-dev)
    install(
      FILES "${packaging_out}/changelog.gz" "${packaging}/debian/copyright"
      DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/${package}"
      COMPONENT ${package}
      EXCLUDE_FROM_ALL)
  endforeach()
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "The sockbroker authors <sockbroker@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "daemon that owns sockets, driven over gRPC")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL sockbroker sockbroker-dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_SOCKBROKER_PACKAGE_NAME sockbroker)
set(CPACK_DEBIAN_SOCKBROKER_PACKAGE_SECTION net)
set(CPACK_DEBIAN_SOCKBROKER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SOCKBROKER_PACKAGE_DEPENDS "adduser, init-system-helpers (>= 1.52)")
set(CPACK_DEBIAN_SOCKBROKER_PACKAGE_CONTROL_EXTRA "${packaging}/debian/postinst;${packaging}/debian/prerm;${packaging}/debian/postrm")
set(CPACK_DEBIAN_SOCKBROKER_DESCRIPTION
    "sockbrokerd owns TCP, Unix and TLS sockets, and lets programs in any language
drive them over gRPC in the words of Python's asyncio streams. The sockets stay
when a program restarts; it comes back and goes on at the exact byte.
.
The command sockbroker connects, listens and looks at what the broker holds.")

set(CPACK_DEBIAN_SOCKBROKER-DEV_PACKAGE_NAME sockbroker-dev)
set(CPACK_DEBIAN_SOCKBROKER-DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_SOCKBROKER-DEV_PACKAGE_RECOMMENDS "libprotobuf-dev, protobuf-compiler, protobuf-compiler-grpc, libgrpc++-dev, libabsl-dev, libssl-dev, libc-ares-dev")
set(CPACK_DEBIAN_SOCKBROKER-DEV_PACKAGE_SUGGESTS "sockbroker (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_SOCKBROKER-DEV_DESCRIPTION
    "For those who write clients: the contract of sockbrokerd as Protobuf and
gRPC definitions, the C++ client library, and a CMake package that finds them.")

include(CPack)
