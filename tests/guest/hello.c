/* The least that a test kernel does. */

#include "guest.h"

void guest_main(void)
{
    print("hello from a %u-bit guest\n", (unsigned)sizeof(word) * 8);
    check_equal("multiboot magic", multiboot_magic, 0x2badb002);
    check("multiboot information is below 1 MiB or in RAM", multiboot_info != 0);
    const uint32_t *info = (const uint32_t *)(word)multiboot_info;
    check("lower memory", (info[0] & 1) != 0 && info[1] >= 512);
    check("upper memory", info[2] >= 1024);
    if (info[0] & 1 << 2)
        print("command line: %s\n", (const char *)(word)info[4]);
    if (info[0] & 1 << 3) {
        /* For a test that passes one: its size is checked from outside. */
        const uint32_t *module = (const uint32_t *)(word)info[6];
        for (unsigned i = 0; i < info[5]; i++, module += 4)
            print("module of %u bytes\n", module[1] - module[0]);
    }
}
