# The few libraries the engine stands on, as targets hearth_<name>. Static where the system has them, since we ship binaries.
find_path(NLOHMANN_JSON_INCLUDE nlohmann/json.hpp REQUIRED)
add_library(hearth_json INTERFACE)
target_include_directories(hearth_json SYSTEM INTERFACE ${NLOHMANN_JSON_INCLUDE})

function(hearth_system_library name header static_name shared_name)
  find_path(${name}_INCLUDE ${header} REQUIRED)
  find_library(${name}_LIBRARY NAMES ${static_name} ${shared_name} REQUIRED)
  add_library(hearth_${name} INTERFACE)
  target_include_directories(hearth_${name} SYSTEM INTERFACE ${${name}_INCLUDE})
  target_link_libraries(hearth_${name} INTERFACE ${${name}_LIBRARY})
endfunction()

hearth_system_library(pcre2 pcre2.h libpcre2-8.a pcre2-8)
target_compile_definitions(hearth_pcre2 INTERFACE PCRE2_CODE_UNIT_WIDTH=8 PCRE2_STATIC)
hearth_system_library(utf8proc utf8proc.h libutf8proc.a utf8proc)
target_compile_definitions(hearth_utf8proc INTERFACE UTF8PROC_STATIC)
