# tenon-client.pc, tenon.pc and, where they are built, tenon-cuda.pc and tenon-relay.pc. Their paths are relative to
# where they lie, so that a prefix may be moved, and `cmake --install --prefix` go anywhere.

set(at ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX}/${at} OUTPUT_VARIABLE TENON_PC_PREFIX)

# The CUDA toolkit is where it was when this was built, or where --define-variable=cuda_libdir=... says.
if(TENON_WITH_CUDA)
  get_target_property(cudart CUDA::cudart_static IMPORTED_LOCATION)
  if(NOT cudart)
    set(cudart ${CUDA_cudart_static_LIBRARY})
  endif()
  cmake_path(GET cudart PARENT_PATH cuda_libdir)
  list(GET CUDAToolkit_INCLUDE_DIRS 0 cuda_includedir)
  set(TENON_PC_CUDA_DIR "cuda_libdir=${cuda_libdir}\ncuda_includedir=${cuda_includedir}")
  set(TENON_PC_CUDA_LIBS " -L\${cuda_libdir} -lcudart_static -ldl -lrt")
endif()

# Whoever links a static library links what it needs too, with --static or without.
get_target_property(kind tenon TYPE)
if(kind STREQUAL "STATIC_LIBRARY")
  set(TENON_PC_LIBS "${TENON_PC_CUDA_LIBS}")
else()
  set(TENON_PC_LIBS_PRIVATE "${TENON_PC_CUDA_LIBS}")
endif()
if(TENON_WITH_NCCL)
  set(TENON_PC_RELAY_LIBS "${TENON_PC_CUDA_LIBS}")
endif()

set(modules tenon-client tenon)
if(TENON_WITH_CUDA)
  list(APPEND modules tenon-cuda)
endif()
if(TENON_WITH_RELAY)
  list(APPEND modules tenon-relay)
endif()
foreach(module ${modules})
  configure_file(${CMAKE_CURRENT_LIST_DIR}/pkgconfig/${module}.pc.in pkgconfig/${module}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/pkgconfig/${module}.pc DESTINATION ${at} COMPONENT dev)
endforeach()
