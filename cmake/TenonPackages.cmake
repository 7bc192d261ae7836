# `cpack` in a build folder: one tarball of everything, and two Debian packages. `tenon` is the command and finds what
# it needs by dpkg-shlibdeps; `libtenon-dev` is headers, libraries and package files.

set(CPACK_GENERATOR "TGZ;DEB")
set(CPACK_PACKAGE_NAME tenon)
set(CPACK_PACKAGE_VENDOR Tenon)
if(NOT TENON_PACKAGE_MAINTAINER MATCHES "^[^<>]+ <[^<>@ ]+@[^<>@ ]+>$")
  message(FATAL_ERROR "TENON_PACKAGE_MAINTAINER is '${TENON_PACKAGE_MAINTAINER}': Debian takes 'Name <mail>'")
endif()
set(CPACK_PACKAGE_CONTACT ${TENON_PACKAGE_MAINTAINER})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_VERBATIM_VARIABLES ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL tenon dev)  # and nothing of what this is part of
set(CPACK_PACKAGE_FILE_NAME tenon-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR})

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_TENON_PACKAGE_NAME tenon)
set(CPACK_DEBIAN_TENON_PACKAGE_SECTION utils)
set(CPACK_DEBIAN_TENON_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_DEV_PACKAGE_NAME libtenon-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_TENON_DESCRIPTION "The tenon command: publishes, shows, verifies and relays.")
set(CPACK_COMPONENT_DEV_DESCRIPTION
  "The header-only client, the library, and what CMake and pkg-config find them by.")

# What the installed headers and static libraries need of others. The CUDA toolkit is no Debian package.
set(needs "libboost-dev (>= 1.74) | libboost1.74-dev | libboost1.81-dev")
if(TENON_WITH_RELAY)
  string(APPEND needs ", libgloo-dev, libssl-dev (>= 3.0)")
endif()
if(BUILD_SHARED_LIBS)
  string(APPEND needs ", tenon (= ${PROJECT_VERSION})")
endif()
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS ${needs})
if(TENON_WITH_CUDA)
  set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS cuda-cudart-dev-${CUDAToolkit_VERSION_MAJOR}-${CUDAToolkit_VERSION_MINOR})
endif()

foreach(package tenon libtenon-dev)
  set(component ${package})
  if(package STREQUAL "libtenon-dev")
    set(component dev)
  endif()
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE RENAME copyright
    DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${package} COMPONENT ${component})
endforeach()
include(CPack)
