# Resolves the optional parts (AUTO, ON, OFF) and lists the headers of the client.

foreach(feature CUDA NCCL)
  if(NOT TENON_${feature} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "TENON_${feature} is '${TENON_${feature}}': it takes AUTO, ON or OFF")
  endif()
  if(TENON_${feature} STREQUAL "ON")
    message(FATAL_ERROR "TENON_${feature}=ON: this version of Tenon has host memory only; use AUTO or OFF")
  endif()
endforeach()

set(TENON_CLIENT_HEADERS
  include/tenon/detail/attachment.hpp
  include/tenon/detail/block.hpp
  include/tenon/detail/hash.hpp
  include/tenon/detail/memory.hpp
  include/tenon/detail/process.hpp
  include/tenon/detail/segment.hpp
  include/tenon/detail/shared_object.hpp
  include/tenon/detail/suggest.hpp
  include/tenon/detail/wait.hpp
  include/tenon/error.hpp
  include/tenon/format.hpp
  include/tenon/layout.hpp
  include/tenon/lease.hpp
  include/tenon/load_plan.hpp
  include/tenon/name.hpp
  include/tenon/subscriber.hpp
  include/tenon/types.hpp)
