# What `cmake --install` puts where, in two components: `dev` (headers, libraries, package files) and `tenon` (the
# command and what its shell and man know of it; also a shared library itself).

# Each target is a component of find_package(tenon) with a file of its own: who asks for one needs what that one needs.
set(TENON_COMPONENTS "")
foreach(target ${TENON_TARGETS})
  string(REPLACE tenon_ "" component ${target})
  list(APPEND TENON_COMPONENTS ${component})
  install(TARGETS ${target} EXPORT tenon-${component}
    LIBRARY COMPONENT tenon NAMELINK_COMPONENT dev
    ARCHIVE COMPONENT dev
    FILE_SET HEADERS COMPONENT dev
    INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})  # for CMake before 3.23, which knows no file sets
  install(EXPORT tenon-${component} NAMESPACE tenon:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tenon COMPONENT dev)
endforeach()
# All of that and no more: `cmake --build FOLDER --target tenon_installed` before `cmake --install FOLDER`.
add_custom_target(tenon_installed DEPENDS ${TENON_TARGETS})
if(TENON_BUILD_CLI)
  add_dependencies(tenon_installed tenon_cli)
  if(TARGET tenon_cli_files)
    add_dependencies(tenon_installed tenon_cli_files)
  endif()
endif()

get_target_property(kind tenon TYPE)
set(TENON_NEEDS_tenon "")  # a shared library brings what it needs
if(TENON_WITH_CUDA AND kind STREQUAL "STATIC_LIBRARY")
  set(TENON_NEEDS_tenon CUDAToolkit)
endif()
set(TENON_NEEDS_relay ${TENON_NEEDS_tenon} Gloo OpenSSL)
if(TENON_WITH_NCCL)
  list(APPEND TENON_NEEDS_relay CUDAToolkit)
endif()
list(REMOVE_DUPLICATES TENON_NEEDS_relay)
configure_package_config_file(cmake/tenonConfig.cmake.in tenonConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tenon)
write_basic_package_version_file(tenonConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tenonConfig.cmake ${PROJECT_BINARY_DIR}/tenonConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/tenon COMPONENT dev)
include(TenonPkgConfig)

# What errors and `tenon doctor` refer to.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/tenon COMPONENT tenon
  FILES_MATCHING PATTERN "*.md" PATTERN "*.svg")
install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/SECURITY.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
  DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/tenon COMPONENT tenon)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libtenon-dev COMPONENT dev)
