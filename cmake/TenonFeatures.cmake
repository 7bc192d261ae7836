# Resolves the optional parts (AUTO, ON, OFF) and lists the headers of the client.

foreach(feature CUDA RELAY NCCL)
  if(NOT TENON_${feature} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "TENON_${feature} is '${TENON_${feature}}': it takes AUTO, ON or OFF")
  endif()
endforeach()

# TENON_WITH_CUDA: whether there is a toolkit to compile GPU code with.
set(TENON_WITH_CUDA OFF)
if(NOT TENON_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  find_package(CUDAToolkit 13.0 QUIET)
  if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND)
    set(TENON_WITH_CUDA ON)
    enable_language(CUDA)
  elseif(TENON_CUDA STREQUAL "ON")
    message(FATAL_ERROR "TENON_CUDA=ON: needs nvcc and the CUDA toolkit, 13.0 or later")
  endif()
endif()
message(STATUS "Tenon: GPU memory: ${TENON_WITH_CUDA}")

# TENON_WITH_RELAY: whether there is what carries bytes to other nodes (Gloo) and what authenticates them (OpenSSL).
set(TENON_WITH_RELAY OFF)
if(NOT TENON_RELAY STREQUAL "OFF")
  find_package(Gloo CONFIG QUIET)
  find_package(OpenSSL QUIET)
  if(Gloo_FOUND AND OPENSSL_FOUND)
    set(TENON_WITH_RELAY ON)
  elseif(TENON_RELAY STREQUAL "ON")
    message(FATAL_ERROR "TENON_RELAY=ON: needs Gloo and OpenSSL (Debian: libgloo-dev libssl-dev)")
  endif()
endif()

# TENON_WITH_NCCL: whether NCCL's types are there; its library is looked for when a relay starts.
set(TENON_WITH_NCCL OFF)
if(TENON_WITH_RELAY AND NOT TENON_NCCL STREQUAL "OFF")
  find_path(TENON_NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  if(TENON_WITH_CUDA AND TENON_NCCL_INCLUDE_DIR)
    set(TENON_WITH_NCCL ON)
  elseif(TENON_NCCL STREQUAL "ON")
    message(FATAL_ERROR "TENON_NCCL=ON: needs GPU memory (TENON_CUDA) and nccl.h")
  endif()
endif()
message(STATUS "Tenon: relay: ${TENON_WITH_RELAY}, over NCCL: ${TENON_WITH_NCCL}")

set(TENON_CLIENT_HEADERS
  include/tenon/detail/attachment.hpp
  include/tenon/detail/block.hpp
  include/tenon/detail/claim.hpp
  include/tenon/detail/crash_point.hpp
  include/tenon/detail/hash.hpp
  include/tenon/detail/keep.hpp
  include/tenon/detail/memory.hpp
  include/tenon/detail/per_process.hpp
  include/tenon/detail/pins.hpp
  include/tenon/detail/place.hpp
  include/tenon/detail/process.hpp
  include/tenon/detail/segment.hpp
  include/tenon/detail/shared_object.hpp
  include/tenon/detail/stage_recorder.hpp
  include/tenon/detail/suggest.hpp
  include/tenon/detail/trace_file.hpp
  include/tenon/detail/wait.hpp
  include/tenon/checksum.hpp
  include/tenon/copy_item.hpp
  include/tenon/error.hpp
  include/tenon/format.hpp
  include/tenon/layout.hpp
  include/tenon/lease.hpp
  include/tenon/load_plan.hpp
  include/tenon/log.hpp
  include/tenon/name.hpp
  include/tenon/stages.hpp
  include/tenon/subscriber.hpp
  include/tenon/types.hpp)
