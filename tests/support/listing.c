#include "listing.h"

#include <Zydis/Zydis.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

void listing_print(const uint8_t *code, size_t length, uint64_t address)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    for (size_t at = 0; at < length;) {
        ZydisDecodedInstruction decoded;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        char text[128];
        if (!ZYAN_SUCCESS(
                ZydisDecoderDecodeFull(&decoder, code + at, length - at, &decoded, operands)))
            break;
        ZydisFormatterFormatInstruction(&formatter, &decoded, operands,
                                        decoded.operand_count_visible, text, sizeof(text),
                                        address + at, NULL);
        print_error("%lx %s\n", address + at, text);
        at += decoded.length;
    }
}
