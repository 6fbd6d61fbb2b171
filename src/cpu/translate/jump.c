/*
 * The jump cache: from one translation to another by RIP alone.
 *
 * Returns, indirect branches and branches to other pages look for their target here, in generated
 * code; what they do not find the dispatcher finds, and remembers here. There is one table a
 * privilege. What is remembered holds as long as the TLB entry that RIP was translated with might:
 * the dispatcher clears the tables of user or of supervisor code when code_epoch (mmu.h) has moved.
 */

#include "cpu/translate/translate.h"

struct jump *jump_entry(struct translate *translate, unsigned privilege, uint64_t rip)
{
    return &translate->jumps[privilege].jumps[rip & PAGE_MASK];
}

/* No RIP with this offset in its page is looked for in this slot. */
static uint64_t no_rip(unsigned slot)
{
    return slot ^ 1u;
}

void jump_remember(struct translate *translate, const struct translation *t)
{
    *jump_entry(translate, t->privilege, t->rip) =
        (struct jump){t->rip, translate->code.execute + t->entry_saved};
    translate->jumps[t->privilege].is_used = true;
}

void jump_forget(struct translate *translate, const struct translation *t)
{
    struct jump *jump = jump_entry(translate, t->privilege, t->rip);
    if (jump->rip == t->rip)
        jump->rip = no_rip((unsigned)(t->rip & PAGE_MASK));
}

static void clear(struct jump_cache *cache)
{
    if (!cache->is_used)
        return;
    cache->is_used = false;
    for (unsigned slot = 0; slot < TRANSLATE_JUMPS; slot++)
        cache->jumps[slot].rip = no_rip(slot);
}

void jump_clear(struct translate *translate, bool user)
{
    for (unsigned p = 0; p < ARRAY_LENGTH(translate->jumps); p++) {
        if ((p == MMU_USER || p == MMU_USER_CHECKED) == user)
            clear(&translate->jumps[p]);
    }
}

void jump_clear_all(struct translate *translate)
{
    jump_clear(translate, true);
    jump_clear(translate, false);
}

void jump_init(struct translate *translate)
{
    for (unsigned p = 0; p < ARRAY_LENGTH(translate->jumps); p++)
        translate->jumps[p].is_used = true;
    jump_clear_all(translate);
}
