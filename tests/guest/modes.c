/* Every mode of the processor, one after the other, and back. modes_switch.S does the switching and
 * leaves words in modes_log and in low memory. */

#include "guest.h"

extern uint32_t modes_log[16];
extern uint8_t modes_compat16[];
extern uint64_t modes_pae[512], modes_pae_directory[512], modes_pae_high[512], modes_pae_table[512];
extern uint32_t modes_legacy[1024], modes_legacy_table[1024], modes_page[1024];
word modes_round_trip(void);

static void prepare(void)
{
    /* 16-bit code based at modes_compat16. */
    word base = (word)modes_compat16;
    gdt[SEL_SPARE / 8] =
        0x00009b000000ffff | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(base >> 24) << 56;

    /* PAE: the first GiB by 2 MiB pages; at 1 GiB one 4 KiB page. */
    modes_pae[0] = (word)modes_pae_directory | 1;
    modes_pae[1] = (word)modes_pae_high | 1;
    for (unsigned i = 0; i < 512; i++)
        modes_pae_directory[i] = (uint64_t)i << 21 | 0x83;
    modes_pae_high[0] = (word)modes_pae_table | 3;
    modes_pae_table[0] = (word)modes_page | 3;

    /* 32-bit paging: the same by 4 MiB pages. */
    for (unsigned i = 0; i < 256; i++)
        modes_legacy[i] = i << 22 | 0x83;
    modes_legacy[256] = (uint32_t)(word)modes_legacy_table | 3;
    modes_legacy_table[0] = (uint32_t)(word)modes_page | 3;
    modes_page[0] = 0x50414745;
}

static uint32_t low16(word address)
{
    return *(volatile uint16_t *)address;
}

void guest_main(void)
{
    prepare();
    memory_set((void *)0x9000, 0, 32);
    /* Real mode's vectors overwrite the start of memory. */
    word high = modes_round_trip();

    check_equal("64-bit registers survive all modes", high, 0x1122334455667788);
    check_equal("compatibility: 0x48 is DEC EAX", modes_log[0], 4);
    check_equal("compatibility: addresses wrap at 4 GiB", modes_log[1], 0x76543210);
    check_equal("compatibility: a push is 4 bytes", modes_log[2], 4);
    check_equal("compatibility, 16 bit: operand sizes", modes_log[3], 0x12349abc);
    check_equal("leaving long mode clears LMA, not LME", modes_log[4] & 0x500, 0x100);
    check_equal("PAE paging", modes_log[5], 0x50414745);
    check("PAE: accessed bit", (modes_pae_table[0] & 0x20) != 0);
    check("PAE: not dirty", (modes_pae_table[0] & 0x40) == 0);
    check_equal("32-bit paging", modes_log[6], 0x50414745);
    check("32-bit paging: accessed bits",
          (modes_legacy[256] & 0x20) != 0 && (modes_legacy_table[0] & 0x20) != 0);
    check_equal("16-bit protected mode: SP", low16(0x9004), 0x7fee);
    check_equal("real mode: segments", low16(0x9008), 0x4242);
    check_equal("real mode: INT and IRET", low16(0x900a), 0x6060);
    check_equal("real mode: 32-bit operands", *(volatile uint32_t *)0x900c, 0xcafef00d);
    check_equal("real mode: far call and return", low16(0x9010), 0xfa12);
    check_equal("real mode: #DE", low16(0x9012), 0xd1d1);
    check_equal("real mode: resumed after #DE", low16(0x9014), 0x600d);
    check_equal("real mode: 16-bit addresses wrap", low16(0x9016) & 0xff, 0x77);
    check_equal("LME set, paging off: LMA clear", modes_log[7] & 0x500, 0x100);
    check_equal("paging on: LMA set", modes_log[8] & 0x500, 0x500);
    check_equal("compatibility mode after paging is on", modes_log[9], SEL_KCODE32);
}
