/*
 * Direct accesses: user code that reads and writes memory without a probe of the TLB.
 *
 * While the window (mmu/window.h) is open, what is translated of user code takes linear addresses,
 * turns one of their bits round, and accesses memory there: the host's MMU says whether it may.
 *
 *      lea  r9, [rdi+8]
 *      btc  r9, 46        carry: it was set, so this is in the window, or nowhere
 *      jnc  other         aside: a low address, or the slow path
 *      mov  rax, [r9]
 *
 * That is half the instructions of a probe, and nothing to be loaded before the address is known.
 * Nor are flags spoilt, but CF, which SETC saves if need be (flags.c). It takes a CPU that has
 * ADCX, and whose BT and BTC write CF alone; there is no window on others. What is not mapped
 * faults. The host's signal finds the translation by where its code is, and goes on at the slow
 * path of the access, as if a probe had failed there: so before the access nothing of the guest's
 * state may have changed (context_direct_operand). The slow path has the page mapped after it has
 * executed the instruction (direct_learn), so the next one does not fault.
 *
 * When it is open. A page that is mapped costs some five microseconds, one that a probe finds
 * nothing, so this is for programs that run for a while. Interrupts in user code are when it is
 * decided. The window opens once the program has used PAGE_NS of the CPU for each page that the TLB
 * has had of it, TIME_LEAST_NS at least, and comes to new ones no more (SETTLED); so opening it
 * costs a twentieth of that at most, the code that is made once more included. Another address
 * space suspends it, and takes it over by the same rule; one that has got the root of another that
 * has ended earns it anew. A page that has to be mapped again is a loss: who has more than
 * CREDIT_MOST saved up, and CREDIT_PERIOD between two interrupts, has the window closed (its
 * working set is larger, or it unmaps all the time) until CREDIT_OPEN has been saved. That all of
 * an address space goes is no loss: so do programs end. An access whose page cannot be mapped (it
 * has a watchpoint; it is where the window has no place) has a probe when its translation is made
 * again, after SITE_BAD times.
 *
 * Translations are of either kind, and while the window is open both may run, so code that is
 * seldom run is not made twice, nor its pages mapped. One for a loop is made anew as direct when
 * the dispatcher next comes to it, another one at the VISITS-th time, what a direct one leads to by
 * a link, new code or not, and what leads to a direct one by a link: there is none between the two
 * kinds, so who passed from one to the other all the time would come to the dispatcher each time.
 * All other new code is made without the window, as the next process will want it. So that the
 * dispatcher sees them again, the jump cache is emptied when the window opens, at the next
 * interrupt and every SEARCH_PERIODS-th. THE INVARIANT: while it is not open for the current
 * address space no direct translation is found: not in the tables (translate_look_up), not in the
 * jump cache (direct_leave), not by a link (translate_chain).
 */

#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "cpu/translate/translate.h"
#include "util/clock.h"

#define TIME_LEAST_NS  5000000u
#define PAGE_NS        250000ull /* some fifty times what it takes to map one */
#define SETTLED        2u
#define CREDIT_PERIOD  16
#define CREDIT_OPEN    256
#define CREDIT_MOST    1024
#define SITE_BAD       16u
#define VISITS         2u
#define SEARCH_PERIODS 32u
#define NO_CR3         UINT64_MAX

/* Whose generated code this thread runs. */
static _Thread_local struct translate *running;

/* What the process did with such signals before there was a window. */
static struct sigaction before;

/* ------------------------------------------------------------------------- faults */

/* The slow path of the direct access whose code is at that offset. They are in order. */
static const struct slow_entry *find_entry(const struct translate *translate,
                                           const struct translation *t, uint32_t offset)
{
    const struct slow_entry *entries = ref_get(translate, ref_of(translate, t) + t->slow);
    for (unsigned i = 0; i < t->slow_count; i++) {
        unsigned end = entries[i].insn & SLOW_ALONE ? entries[i].alone : entries[i].resume;
        if (entries[i].direct != 0 && end > offset)
            return &entries[i];
    }
    return NULL;
}

/* Where code that has faulted goes on; NULL: it is not of generated code's accesses. */
static const uint8_t *find_way(struct translate *translate, const uint8_t *rip)
{
    const struct code_piece *code = &translate->code;
    if (rip < code->execute || rip >= code->execute + code->code_size)
        return NULL;
    uint32_t at = (uint32_t)(rip - code->execute);
    const struct translation *t = ring_find(translate, at);
    if (t == NULL || !t->is_direct)
        return NULL;
    const struct slow_entry *entry = find_entry(translate, t, at - t->code);
    return entry != NULL ? code->execute + t->aside + entry->direct - 1 : NULL;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *user = context;
    greg_t *rip = &user->uc_mcontext.gregs[REG_RIP];
    struct translate *translate = running;
    const uint8_t *way = NULL;
    uint64_t address = (uint64_t)(uintptr_t)info->si_addr;
    bool is_known = info->si_code != SI_KERNEL; /* else it is not canonical */
    if (translate != NULL && info->si_code > 0 && (!is_known || window_may_reach(address)))
        way = find_way(translate, (const uint8_t *)*rip);
    if (way == NULL) {
        sigaction(number, &before, NULL); /* it faults again, or was sent: let it be */
        if (info->si_code <= 0)
            raise(number);
        return;
    }
    translate->direct.fault = is_known ? window_flip(address) & ~PAGE_MASK : DIRECT_NO_FAULT;
    translate->stats.window_faults++;
    *rip = (greg_t)way;
}

void direct_watch(struct translate *translate)
{
    running = translate;
}

/* ------------------------------------------------------------------------- when it is open */

void direct_init(struct translate *translate)
{
    translate->direct.fault = translate->direct.wanted = DIRECT_NO_FAULT;
    translate->direct.credit = CREDIT_MOST;
    translate->direct.last = NO_CR3;
}

/* Other signals may not come in between: what they do may fault. */
static bool watch_faults(void)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old;
    sigset_t faults;
    sigfillset(&action.sa_mask);
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    if (pthread_sigmask(SIG_UNBLOCK, &faults, NULL) != 0 || sigaction(SIGSEGV, &action, &old) != 0)
        return false;
    if (old.sa_sigaction != on_fault)
        before = old;
    return true;
}

/* The manuals say of BT and BTC that they write CF, keep ZF, and leave the others undefined (SDM
 * vol. 2). CPUs keep them: does this one? */
static bool has_pure_bit_tests(void)
{
    const uint64_t status = FLAGS_STATUS;
    for (unsigned n = 0; n < 4; n++) {
        uint64_t given = n & 1 ? status : 0, after, address = (n >> 1 & 1ull) << WINDOW_BIT;
        __asm__ volatile("lea -128(%%rsp), %%rsp\n\t" /* the red zone */
                         "pushfq\n\t"
                         "andq %2, (%%rsp)\n\t"
                         "orq %3, (%%rsp)\n\t"
                         "popfq\n\t"
                         "btc %4, %1\n\t"
                         "bt $0, %k1\n\t"
                         "pushfq\n\t"
                         "pop %0\n\t"
                         "lea 128(%%rsp), %%rsp"
                         : "=&r"(after), "+r"(address)
                         : "r"(~status), "r"(given), "i"(WINDOW_BIT)
                         : "cc", "memory");
        if (((after ^ given) & status & ~(uint64_t)FLAG_CF) != 0)
            return false;
    }
    return true;
}

static bool has_adcx(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && ebx & bit_ADX;
}

static bool have_window(struct translate *translate)
{
    struct mmu *mmu = &translate->vcpu->mmu;
    struct error err;
    if (mmu->window == NULL && !translate->direct.is_refused)
        translate->direct.is_refused = !has_adcx() || !has_pure_bit_tests() ||
                                       window_create(&mmu->window, &err) != STATUS_OK ||
                                       !watch_faults();
    return !translate->direct.is_refused;
}

void direct_leave(struct translate *translate)
{
    if (!translate->direct.is_open)
        return;
    translate->direct.is_open = false;
    jump_put_away_all(translate, MMU_USER);
}

void direct_open(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    if (direct->is_open || translate->is_lockstep || !have_window(translate))
        return;
    window_empty(translate->vcpu->mmu.window);
    direct->has_space = true;
    direct->cr3 = translate->vcpu->mmu.cr3;
    memset(direct->bad, 0, sizeof(direct->bad));
    direct->age = 0;
    direct->is_open = true;
    jump_put_away_all(translate, MMU_USER);
    translate->stats.windows++;
}

void direct_forget(struct translate *translate, uint64_t cr3)
{
    struct direct *direct = &translate->direct;
    if (direct->cr3 == cr3)
        direct->has_space = false;
    if (direct->last == cr3)
        direct->last = NO_CR3;
}

static void close_window(struct translate *translate)
{
    direct_leave(translate);
    translate->direct.has_space = false;
    window_empty(translate->vcpu->mmu.window);
}

/* The guest has taken a page fault for an access, and comes back to do it again. */
static void show_wanted(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    uint64_t linear = direct->wanted;
    direct->wanted = DIRECT_NO_FAULT;
    if (direct->is_open && window_has_place(linear) &&
        mmu_find(&translate->vcpu->mmu, linear, MMU_READ, MMU_USER) != NULL)
        mmu_show(&translate->vcpu->mmu, linear);
}

void direct_return(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    if (unlikely(direct->has_space && !direct->is_open && direct->cr3 == translate->vcpu->mmu.cr3))
        direct->is_open = true;
    if (unlikely(direct->wanted != DIRECT_NO_FAULT))
        show_wanted(translate);
}

/* How many pages have been lost that had not been told yet; more than any credit are as bad. */
static int take_losses(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    const struct window *window = translate->vcpu->mmu.window;
    uint64_t losses = window != NULL ? window_losses(window) : 0, known = direct->losses;
    direct->losses = losses;
    return losses - known < 2 * CREDIT_MOST ? (int)(losses - known) : 2 * CREDIT_MOST;
}

/* It does not come to ever new pages, as a program does that begins. */
static bool has_settled(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    unsigned pages = mmu_user_pages(&translate->vcpu->mmu);
    bool grows = pages > direct->pages + direct->pages / 32;
    direct->settled = grows ? 0 : direct->settled + 1;
    if (pages > direct->pages) /* it may just have been flushed */
        direct->pages = pages;
    return direct->settled >= SETTLED;
}

void direct_tick(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    uint64_t now = clock_thread_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    if (direct->last != translate->vcpu->mmu.cr3) {
        direct->since = now;
        direct->pages = direct->settled = 0;
    }
    direct->last = translate->vcpu->mmu.cr3;
    direct->credit += CREDIT_PERIOD - take_losses(translate);
    if (direct->credit > CREDIT_MOST)
        direct->credit = CREDIT_MOST;
    if (direct->is_open && direct->age++ % SEARCH_PERIODS == 0)
        jump_put_away_all(translate, MMU_USER);
    if (direct->is_open && direct->credit < 0)
        close_window(translate);
    else if (has_settled(translate) && direct->credit >= CREDIT_OPEN &&
             now - direct->since >= TIME_LEAST_NS && now - direct->since >= PAGE_NS * direct->pages)
        direct_open(translate);
}

/* ------------------------------------------------------------------------- accesses */

bool direct_is_due(struct translate *translate, struct translation *t, const struct link *link)
{
    if (!direct_may_run(translate, translate->vcpu->privilege))
        return false;
    if (t != NULL && (t->is_direct || t->is_crossing))
        return t->is_direct;
    if (link != NULL && link_from(translate, link)->is_direct)
        return true;
    if (t == NULL || t->is_hot)
        return t != NULL;
    t->visits = (t->visits + 1u) % VISITS;
    return t->visits == 0;
}

void direct_follow(struct translate *translate, const struct translation *t,
                   const struct link *link)
{
    struct translation *from = link != NULL ? link_from(translate, link) : NULL;
    if (t->is_direct && from != NULL && !from->is_direct && !from->is_dead)
        translate_part(translate, from);
}

static unsigned site_of(uint64_t gpa)
{
    return (unsigned)(gpa ^ gpa >> PAGE_SHIFT) % DIRECT_SITES;
}

bool direct_is_wanted(const struct translate *translate, uint64_t gpa)
{
    return translate->direct.bad[site_of(gpa)] < SITE_BAD;
}

void direct_begin(struct translate *translate)
{
    struct direct *direct = &translate->direct;
    direct->wanted = direct->fault;
    direct->fault = DIRECT_NO_FAULT;
}

void direct_learn(struct translate *translate, struct translation *t, uint64_t gpa)
{
    struct direct *direct = &translate->direct;
    uint8_t *bad = &direct->bad[site_of(gpa)];
    uint64_t fault = direct->wanted;
    direct->wanted = DIRECT_NO_FAULT;
    if (!direct->is_open || (fault != DIRECT_NO_FAULT && mmu_show(&translate->vcpu->mmu, fault)))
        return;
    if (*bad == SITE_BAD || ++*bad == SITE_BAD)
        translate_unlink(translate, t);
}
