/* One message as anybody may send it over a link: none may make link_check read beyond it, and what
 * it accepts has the length that its head says. The first byte: who sends (bit 0), descriptors. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    enum link_sender sender = (data[0] & 1) != 0 ? LINK_MANAGER : LINK_VM;
    struct error err = {0};
    enum status status = link_check(data + 1, size - 1, data[0] >> 1, sender, &err);
    if (status != err.status || (status != STATUS_OK) != (err.text[0] != '\0'))
        abort();
    if (status == STATUS_OK) {
        struct link_head head;
        memcpy(&head, data + 1, sizeof head);
        if (head.count > LINK_PAGES || size - 1 > LINK_MOST ||
            size - 1 != link_size((enum link_type)head.type, head.count) ||
            (sender == LINK_MANAGER) != (head.type >= LINK_WELCOME))
            abort();
    }
    return 0;
}
