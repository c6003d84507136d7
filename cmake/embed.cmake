# Writes a file's bytes as a C source with NAME[] and NAME_size, so that the program carries it along and needs no file beside it.
#
# cmake -DINPUT=file -DOUTPUT=file.c -DNAME=symbol -DHEADER=header.h -P embed.cmake
file(READ "${INPUT}" hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "    \\1\n" bytes "${bytes}")
file(WRITE "${OUTPUT}" "/* Made by cmake/embed.cmake; do not edit. */\n#include \"${HEADER}\"\n\nconst unsigned char ${NAME}[] = {\n${bytes}0};\nconst size_t ${NAME}_size = ${size};\n")
