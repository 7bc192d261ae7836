# Resolves the optional parts (AUTO, ON, OFF) and lists the headers of the client.

foreach(feature CUDA NCCL)
  if(NOT TENON_${feature} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "TENON_${feature} is '${TENON_${feature}}': it takes AUTO, ON or OFF")
  endif()
endforeach()
if(TENON_NCCL STREQUAL "ON")
  message(FATAL_ERROR "TENON_NCCL=ON: this version of Tenon has no relay yet; use AUTO or OFF")
endif()

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
  include/tenon/detail/suggest.hpp
  include/tenon/detail/wait.hpp
  include/tenon/checksum.hpp
  include/tenon/copy_item.hpp
  include/tenon/error.hpp
  include/tenon/format.hpp
  include/tenon/layout.hpp
  include/tenon/lease.hpp
  include/tenon/load_plan.hpp
  include/tenon/name.hpp
  include/tenon/subscriber.hpp
  include/tenon/types.hpp)
