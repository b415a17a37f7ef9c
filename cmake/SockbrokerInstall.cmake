# What `cmake --install build/release` puts in place beside the programs, which their directories install themselves.

include(GNUInstallDirs)

install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" "${PROJECT_SOURCE_DIR}/CHANGELOG.md"
        DESTINATION "${CMAKE_INSTALL_DOCDIR}")
if(EXISTS "${PROJECT_SOURCE_DIR}/README.md")
  install(FILES "${PROJECT_SOURCE_DIR}/README.md" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
endif()
if(SOCKBROKER_BUILD_BROKER AND EXISTS "${PROJECT_SOURCE_DIR}/proto")
  # The contract, for whoever generates a client from it.
  install(
    DIRECTORY "${PROJECT_SOURCE_DIR}/proto/"
    DESTINATION "${CMAKE_INSTALL_DATADIR}/sockbroker/proto"
    FILES_MATCHING
    PATTERN "*.proto")
endif()
