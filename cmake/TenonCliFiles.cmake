# The command's man page and completion, written by itself, and where all of it is installed. A foreign program runs
# under CMAKE_CROSSCOMPILING_EMULATOR; without one they are left out.

set(made ${CMAKE_CURRENT_BINARY_DIR}/made)
set(TENON_CLI_FILES "")
function(tenon_cli_writes file)
  add_custom_command(OUTPUT ${made}/${file} COMMAND ${CMAKE_COMMAND} -E make_directory ${made}
    COMMAND tenon_cli ${ARGN} > ${made}/${file} DEPENDS tenon_cli VERBATIM)
  set(TENON_CLI_FILES ${TENON_CLI_FILES} ${made}/${file} PARENT_SCOPE)
endfunction()

if(CMAKE_CROSSCOMPILING AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
  message(STATUS "Tenon: no man page and no completion: programs for ${CMAKE_SYSTEM_PROCESSOR} do not run here")
else()
  tenon_cli_writes(tenon.1 man)
  tenon_cli_writes(tenon completion bash)
  tenon_cli_writes(_tenon completion zsh)
  add_custom_target(tenon_cli_files ALL DEPENDS ${TENON_CLI_FILES})
endif()

if(TENON_INSTALL)
  install(TARGETS tenon_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT tenon)
  if(TENON_CLI_FILES)
    install(FILES ${made}/tenon.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT tenon)
    install(FILES ${made}/tenon DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT tenon)
    # zsh of Debian looks into the second one for what packages bring.
    foreach(folder site-functions vendor-completions)
      install(FILES ${made}/_tenon DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/${folder} COMPONENT tenon)
    endforeach()
  endif()
endif()
