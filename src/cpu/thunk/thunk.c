/*
 * Thunks: guest instructions that run on the host.
 *
 * A vector, x87 or other unprivileged instruction touches registers, flags and at most one memory
 * operand. Registers live in struct vcpu, and memory has to go through the software TLB, so the
 * instruction itself can run on the host CPU between a load and a store of what it uses:
 *
 *   policy.c     decides whether it may: whitelist, and offered to the guest
 *   moves.c      plain moves, too common and too simple for more than a memcpy
 *   masked.c     gathers and masked moves, whose memory accesses depend on their data
 *   canonical.c  replaces registers and memory operand by fixed ones: the key
 *   build.c      generates code for a key: load, instruction, store
 *   run.c        at execution: availability, memory operand in, code, faults, memory operand out
 *   fault.c      turns the host CPU's exceptions into the guest's
 *   state.c, x87_env.c  FXSAVE, XSAVE, FNSTENV and family, by hand
 *
 * Invariants
 *  - No guest register is ever named by generated code other than through a slot, RSP and RDI least
 *    of all; no guest address reaches it, only that of a copy of the operand in the handler's stack
 *    frame. So whatever the guest's instruction is, generated code cannot touch anything else.
 *  - vcpu->xstate is valid in memory whenever generated code does not run.
 *  - The host's MXCSR, x87 state and upper YMM halves are as the ABI wants them after each thunk.
 *  - A published thunk never changes or goes away before its set does: insn->extra may point to it.
 *
 * The bound. There are some 1,500 canonical instructions beside the immediate byte, and a hostile
 * guest may try all 256 of each. Code is generated until THUNK_CODE_SIZE or THUNK_MAX is reached;
 * from then on new ones run from one scratch place, generated anew for each execution under the
 * lock (thunk_exec_uncached; the key is kept in insn->immediate). Slow, right, and of no concern to
 * an honest guest.
 *
 * Code is written through one mapping of a memfd and executed through another.
 */

#include "cpu/thunk/thunk_internal.h"

#include <stdlib.h>
#include <string.h>

#include "util/log.h"

enum status thunk_set_create(struct thunk_set **out, struct error *err)
{
    struct thunk_set *set = calloc(1, sizeof(*set));
    if (set == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a thunk set");
    ZydisDecoderInit(&set->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    pthread_mutex_init(&set->lock, NULL);
    enum status status =
        code_memory_create(&set->code, "aerostat-thunks", THUNK_CODE_SIZE, 1, true, err);
    if (status == STATUS_OK && !thunk_fault_register(set->code.execute, THUNK_CODE_SIZE))
        status = error_set(err, STATUS_NO_SPACE, "too many thunk sets in one process");
    if (status != STATUS_OK) {
        thunk_set_destroy(set);
        return status;
    }
    *out = set;
    return STATUS_OK;
}

void thunk_set_destroy(struct thunk_set *set)
{
    if (set == NULL)
        return;
    if (set->code.execute != NULL)
        thunk_fault_unregister(set->code.execute);
    code_memory_destroy(&set->code);
    pthread_mutex_destroy(&set->lock);
    free(set);
}

void thunk_set_get_stats(struct thunk_set *set, struct thunk_set_stats *stats)
{
    pthread_mutex_lock(&set->lock);
    *stats = set->stats;
    stats->thunks = set->count;
    stats->code_bytes = set->code_used;
    pthread_mutex_unlock(&set->lock);
}

static unsigned bucket_of(uint64_t key)
{
    return (unsigned)((key * 0x9e3779b97f4a7c15u) >> 40) & (THUNK_BUCKETS - 1);
}

/* The thunk of a key, generated if need be; NULL with *full where there is no more room, NULL
 * without where the host cannot run it. */
static const struct thunk *find_or_build(struct thunk_set *set, const struct features *features,
                                         const struct thunk_key *key, enum thunk_unit unit,
                                         bool *full)
{
    const struct thunk *found = NULL;
    *full = false;
    pthread_mutex_lock(&set->lock);
    unsigned bucket = bucket_of(key->value);
    while (set->buckets[bucket] != 0) {
        unsigned index = set->buckets[bucket] - 1u;
        if (set->keys[index] == key->value) {
            found = &set->thunks[index];
            goto out;
        }
        bucket = (bucket + 1) & (THUNK_BUCKETS - 1);
    }

    struct thunk thunk;
    if (!thunk_describe(&set->decoder, features, key, unit, &thunk)) {
        set->stats.refused++;
        goto out;
    }
    if (set->count == THUNK_MAX ||
        set->code_used + THUNK_CODE_MAX > THUNK_CODE_SIZE - THUNK_CODE_MAX) {
        *full = true;
        goto out;
    }
    size_t size = thunk_emit(key, &thunk, set->code.write + set->code_used,
                             set->code.execute + set->code_used);
    set->code_used += align_up(size, 16);
    set->keys[set->count] = key->value;
    set->thunks[set->count] = thunk;
    found = &set->thunks[set->count];
    set->buckets[bucket] = (uint16_t)++set->count;
out:
    pthread_mutex_unlock(&set->lock);
    return found;
}

bool thunk_bind(struct thunk_set *set, const struct vcpu *vcpu,
                const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                const uint8_t *bytes, struct insn *insn)
{
    enum thunk_unit unit;
    if (!thunk_policy_allows(vcpu->features, decoded, operands, &unit))
        return false;

    struct insn bound = *insn;
    bound.length = decoded->length;
    if (thunk_bind_move(decoded, operands, &bound) ||
        thunk_bind_masked(decoded, operands, &bound)) {
        *insn = bound;
        return true;
    }

    struct thunk_key key;
    if (!thunk_canonicalize(&set->decoder, decoded, operands, bytes, unit, &key, &bound)) {
        log_debug("thunk: %s has no canonical form", ZydisMnemonicGetString(decoded->mnemonic));
        return false;
    }
    bool full;
    const struct thunk *thunk = find_or_build(set, vcpu->features, &key, unit, &full);
    if (thunk == NULL && !full)
        return false;
    bound.exec = full ? thunk_exec_uncached : thunk_exec;
    bound.extra = thunk;
    bound.immediate = key.value;
    bound.operand_size = (uint8_t)(full ? unit : bound.operand_size);
    bound.condition = (uint8_t)(decoded->raw.modrm.mod << 6 | decoded->raw.modrm.reg << 3 |
                                decoded->raw.modrm.rm); /* for FOP */
    *insn = bound;
    return true;
}
