/*
 * What comes over a VM's link: its order is checked here, its form by link_check, what it says of
 * pages by the group. Whatever is wrong cuts the VM off, and it alone.
 */

#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hostd/manager.h"
#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"

/* A turn of one VM ends after so many messages, and others have theirs. */
#define TURN_MESSAGES 8u

/* How much of the manager's CPU time a VM may use with what it sends: a fifth, beyond a burst. */
#define TIME_PART 5u
#define BURST_NS  ((int64_t)NS_PER_SECOND / 10)
#define REFILL_NS (NS_PER_SECOND / 50)

/* Of that, what it takes to receive a message. */
#define MESSAGE_NS 3000u

/* Guest-physical space beside its RAM: the hole below 4 GiB, and what devices take. */
#define HOLE_PAGES (2 * GIB / PAGE_SIZE)

/* More than this times the host's memory is no VM that this host could ever run. */
#define OVERCOMMIT_MOST 64u

struct message {
    struct link_head head;
    union {
        struct link_hello hello;
        struct link_ref refs[LINK_PAGES];
        struct link_offer offers[LINK_PAGES];
        struct link_report report;
    };
    int descriptors[LINK_DESCRIPTORS_MOST];
    unsigned descriptor_count;
};
_Static_assert(offsetof(struct message, hello) == sizeof(struct link_head), "as it comes");
_Static_assert(offsetof(struct message, descriptors) >= LINK_MOST, "the longest fits");

static void link_forget(struct vm *vm)
{
    io_source_destroy(vm->source);
    vm->source = NULL;
    if (vm->fd >= 0)
        close(vm->fd);
    vm->fd = -1;
    vm->is_paced = false;
    if (vm->sharer != NULL)
        group_forget_hints(vm->sharer); /* its pages may be another's by the time of a match */
}

void vm_link_close(struct vm *vm)
{
    link_forget(vm);
    if (vm->stage != VM_CUT_OFF)
        vm->stage = VM_APART;
}

/* Once: a VM can have it happen as often as it likes. */
static void complain(struct vm *vm, const struct error *err)
{
    if (!vm->has_said_so)
        log_warning("%s: %s", vm->name, err->text);
    vm->has_said_so = true;
}

static void cut_off(struct vm *vm, const struct error *err)
{
    log_warning("%s is cut off: %s", vm->name, err->text);
    link_forget(vm);
    adoption_end(vm);
    vm->stage = VM_CUT_OFF;
    registry_settle(vm); /* it has said what it holds, as far as that is true */
}

static bool send_attach(void *context, const struct link_ref *refs, uint32_t count)
{
    struct vm *vm = context;
    struct {
        struct link_head head;
        struct link_ref refs[LINK_PAGES];
    } message = {.head = {.type = LINK_ATTACH, .count = count}};
    memcpy(message.refs, refs, count * sizeof *refs);
    return vm->stage == VM_MANAGED &&
           link_send(vm->fd, &message, link_size(LINK_ATTACH, count), NULL, 0, NULL) == STATUS_OK;
}

/* ---- the greeting ---- */

static bool is_name(const char text[LINK_NAME_SIZE], bool may_be_empty)
{
    size_t length = strnlen(text, LINK_NAME_SIZE);
    for (size_t i = length; i < LINK_NAME_SIZE; i++) {
        if (text[i] != '\0')
            return false;
    }
    return length < LINK_NAME_SIZE &&
           (length == 0 ? may_be_empty : control_name_check(text, NULL) == STATUS_OK);
}

/* Memory, of which a page can be read without waiting for anybody. */
static bool is_memory(int fd)
{
    struct stat info;
    struct statfs system;
    return fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && fstatfs(fd, &system) == 0 &&
           (system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC);
}

static enum status hello_check(const struct vm *vm, const struct message *message,
                               struct error *err)
{
    const struct link_hello *hello = &message->hello;
    uint64_t most = vm->manager->host.memory;
    most = most > UINT64_MAX / OVERCOMMIT_MOST ? UINT64_MAX : most * OVERCOMMIT_MOST;
    if (hello->version != LINK_VERSION)
        return error_set(err, STATUS_INVALID, "it speaks version %u of the link", hello->version);
    if (!is_name(hello->name, false) || !is_name(hello->group, true) ||
        strcmp(hello->name, vm->name) != 0)
        return error_set(err, STATUS_INVALID, "it gives a wrong name");
    if (hello->min > hello->max || hello->max == 0 || hello->max > most || hello->overhead > most)
        return error_set(err, STATUS_INVALID, "it gives impossible sizes");
    if (hello->span_pages == 0 || hello->span_pages > LINK_PPN_MOST ||
        hello->max / PAGE_SIZE > LINK_PPN_MOST)
        return error_set(err, STATUS_INVALID, "it gives impossible page numbers");
    if ((hello->pool_key != 0) != (message->descriptor_count == 2) ||
        !is_memory(message->descriptors[0]))
        return error_set(err, STATUS_INVALID, "it gives wrong descriptors");
    return STATUS_OK;
}

/* What was set for the VM: by whoever had it admitted, or by what it says when it is first heard.
 * Later it may say what it likes, since a guest may have broken out by then. */
static void facts_take(struct vm *vm, const struct link_hello *hello, char group[LINK_NAME_SIZE])
{
    struct reservation *reservation = reservation_find(vm->manager, vm->name);
    vm->min = hello->min;
    vm->max = hello->max;
    vm->shares = hello->shares;
    vm->swap = POLICY_NO_LIMIT >> 1;
    vm->overhead = hello->overhead;
    strcpy(group, hello->group);
    if (reservation != NULL) {
        const struct control_request *request = &reservation->request;
        vm->min = request->min;
        vm->max = request->max;
        vm->shares = request->shares;
        if ((request->has & CONTROL_HAS_SWAP) != 0)
            vm->swap = request->swap;
        strcpy(group, request->group);
        TAILQ_REMOVE(&vm->manager->reservations, reservation, entry);
        free(reservation);
        return;
    }
    struct error err;
    struct control_request as_asked = {.min = vm->min, .max = vm->max, .overhead = vm->overhead};
    if (balance_admit(vm->manager, &as_asked, &err) != STATUS_OK)
        log_warning("%s runs without having been admitted: %s", vm->name, err.text);
}

/* The group's pool, if this is it, where the manager has none yet. */
static void pool_take(struct vm *vm, const struct message *message)
{
    struct group_record *record = vm->record;
    struct error err;
    struct stat info;
    vm->same_pool = false;
    if (message->descriptor_count < 2 || record->facts.key != message->hello.pool_key)
        return;
    if (record->group == NULL) {
        if (group_restore(&record->group, record->facts.key, message->descriptors[1],
                          (dev_t)record->facts.device, (ino_t)record->facts.inode,
                          &err) != STATUS_OK) {
            complain(vm, &err);
            return;
        }
        record->group->unsettled = record->unsettled;
    }
    vm->same_pool = fstat(message->descriptors[1], &info) == 0 &&
                    info.st_dev == record->group->pool.device &&
                    info.st_ino == record->group->pool.inode;
}

/* Its part in the group, which has a pool. */
static enum status sharer_begin(struct vm *vm, uint64_t span, struct error *err)
{
    struct sharer *sharer = calloc(1, sizeof *sharer);
    if (sharer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    sharer->ram = vm->charge.ram;
    sharer->send = send_attach;
    sharer->context = vm;
    enum status status = group_join(vm->record->group, sharer, span, err);
    if (status != STATUS_OK)
        free(sharer);
    else
        vm->sharer = sharer;
    return status;
}

static enum status take_hello(struct vm *vm, struct message *message, struct error *err)
{
    enum status status = hello_check(vm, message, err);
    if (status != STATUS_OK)
        return status;
    if (!vm->is_known) {
        char group[LINK_NAME_SIZE];
        facts_take(vm, &message->hello, group);
        struct group_record *record = registry_group(vm->manager, group);
        if (record == NULL)
            return error_set(err, STATUS_NO_MEMORY, "out of memory");
        registry_join(vm, record);
        vm->is_known = true;
    }
    if (message->hello.span_pages > vm->max / PAGE_SIZE + HOLE_PAGES)
        return error_set(err, STATUS_INVALID, "it is larger than it may be");
    if (vm->charge.ram >= 0)
        close(vm->charge.ram);
    vm->charge.ram = message->descriptors[0];
    message->descriptors[0] = -1;
    pool_take(vm, message);
    registry_retire(vm); /* what it held before counts until it has said what it holds now */
    vm->span = message->hello.span_pages;
    if (vm->same_pool)
        status = sharer_begin(vm, vm->span, err);
    vm->stage = VM_TELLING;
    return status;
}

/* ---- welcome ---- */

static enum status pool_make(struct vm *vm, struct error *err)
{
    struct group_record *record = vm->record;
    enum status status = group_create(&record->group, 0, err);
    if (status != STATUS_OK)
        return status;
    record->facts.key = record->group->key;
    record->facts.device = record->group->pool.device;
    record->facts.inode = record->group->pool.inode;
    record->group->unsettled = record->unsettled;
    return STATUS_OK;
}

static enum status welcome(struct vm *vm, struct error *err)
{
    struct {
        struct link_head head;
        struct link_welcome body;
    } message = {.head = {.type = LINK_WELCOME, .count = 1}};
    int reader;
    enum status status = vm->record->group == NULL ? pool_make(vm, err) : STATUS_OK;
    if (status == STATUS_OK && vm->sharer == NULL)
        status = sharer_begin(vm, vm->span, err);
    if (status != STATUS_OK)
        return status;
    registry_save(vm->manager); /* before it can hold anything */
    status = pool_reader(&vm->record->group->pool, &reader, err);
    if (status != STATUS_OK)
        return status;
    message.body = (struct link_welcome){
        .version = LINK_VERSION,
        .key = vm->record->group->key,
        .pool_bytes = POOL_BYTES,
        .same_pool = vm->same_pool,
    };
    status = link_send(vm->fd, &message, sizeof message, &reader, 1, err);
    close(reader);
    if (status == STATUS_OK)
        vm->stage = VM_MANAGED;
    return status;
}

void vm_link_welcome(struct vm *vm)
{
    struct error err;
    if (vm->record->group == NULL && vm->record->unsettled != 0 &&
        clock_monotonic_ns() < vm->record->waited_until)
        return;
    if (welcome(vm, &err) == STATUS_OK) {
        balance_meet(vm);
        balance_soon(vm->manager);
        return;
    }
    if (err.status != STATUS_NOT_FOUND) /* it has hung up */
        complain(vm, &err);
    vm_link_close(vm);
}

/* It has said all that it holds. */
static void take_ready(struct vm *vm)
{
    struct manager *manager = vm->manager;
    struct group_record *record = vm->record;
    if (vm->same_pool)
        registry_end_former(vm);
    registry_settle(vm);
    vm->stage = VM_WAITING;
    struct vm *other;
    TAILQ_FOREACH(other, &manager->vms, entry)
    {
        if (other->stage == VM_WAITING && other->record == record)
            vm_link_welcome(other);
    }
}

/* ---- pages ---- */

static enum status take_holds(struct vm *vm, const struct message *message, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; vm->same_pool && status == STATUS_OK && i < message->head.count; i++)
        status = group_hold(vm->sharer, message->refs[i], err);
    return status;
}

static enum status take_pages(struct vm *vm, const struct message *message, struct error *err)
{
    enum status status = STATUS_OK;
    for (uint32_t i = 0; status == STATUS_OK && i < message->head.count; i++) {
        status = message->head.type == LINK_OFFER
                     ? group_offer(vm->sharer, &message->offers[i], err)
                     : group_drop(vm->sharer, message->refs[i], err);
    }
    group_flush(vm->record->group); /* also of what came before the breach: it has been recorded */
    return status;
}

/* ---- the link ---- */

static enum status take_message(struct vm *vm, struct message *message, struct error *err)
{
    switch (vm->stage) {
    case VM_GREETING:
        if (message->head.type == LINK_HELLO)
            return take_hello(vm, message, err);
        break;
    case VM_TELLING:
        if (message->head.type == LINK_HOLDS)
            return take_holds(vm, message, err);
        if (message->head.type == LINK_READY) {
            take_ready(vm);
            return STATUS_OK;
        }
        break;
    case VM_WAITING: /* reports may come before it has been welcomed */
    case VM_MANAGED:
        if (message->head.type == LINK_REPORT) {
            vm->report = message->report;
            vm->has_reported = true;
            if (vm->stage == VM_MANAGED)
                registry_end_former(vm);
            return STATUS_OK;
        }
        if (vm->stage == VM_MANAGED &&
            (message->head.type == LINK_OFFER || message->head.type == LINK_DROP)) {
            registry_end_former(vm); /* what it held in another pool is private by now */
            return take_pages(vm, message, err);
        }
        break;
    default:
        break;
    }
    return error_set(err, STATUS_INVALID, "a message of type %u out of order", message->head.type);
}

static void pace(struct vm *vm)
{
    struct manager *manager = vm->manager;
    vm->is_paced = true;
    io_source_set_events(vm->source, 0);
    if (!manager->pace_armed)
        io_timer_arm(manager->pace_timer, clock_monotonic_ns() + REFILL_NS);
    manager->pace_armed = true;
}

/* True: it has tokens. */
static bool refill(struct vm *vm)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t elapsed = now - vm->tokens_at;
    if (elapsed >= NS_PER_SECOND)
        vm->tokens = BURST_NS;
    else
        vm->tokens += (int64_t)(elapsed / TIME_PART);
    if (vm->tokens > BURST_NS)
        vm->tokens = BURST_NS;
    vm->tokens_at = now;
    return vm->tokens > 0;
}

/* No message, as that which brings a large pool back, has it wait for longer than half a second. */
static void spend(struct vm *vm, uint64_t ns)
{
    vm->tokens -= (int64_t)ns;
    if (vm->tokens < -BURST_NS)
        vm->tokens = -BURST_NS;
}

void vm_link_refill(struct manager *manager)
{
    struct vm *vm;
    bool some_wait = false;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (vm->is_paced && refill(vm)) {
            vm->is_paced = false;
            io_source_set_events(vm->source, EPOLLIN);
        }
        some_wait |= vm->is_paced;
    }
    manager->pace_armed = some_wait;
    if (some_wait)
        io_timer_arm(manager->pace_timer, clock_monotonic_ns() + REFILL_NS);
}

/* The other end is closed. */
static void link_lost(struct vm *vm)
{
    vm_link_close(vm);
    if (!charge_measure(&vm->charge, 0))
        registry_end(vm);
}

void vm_link_read(struct vm *vm)
{
    struct message message;
    refill(vm);
    for (unsigned i = 0; i < TURN_MESSAGES && vm->fd >= 0; i++) {
        struct error err = {0};
        uint64_t length;
        if (vm->tokens <= 0) {
            pace(vm);
            return;
        }
        enum status status = link_receive(vm->fd, LINK_VM, &message, &length, message.descriptors,
                                          &message.descriptor_count, &err);
        if (status == STATUS_BUSY)
            return;
        if (status == STATUS_NOT_FOUND || status == STATUS_IO) {
            link_lost(vm);
            return;
        }
        if (status == STATUS_OK) {
            uint64_t from = clock_thread_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
            status = take_message(vm, &message, &err);
            spend(vm, MESSAGE_NS + clock_thread_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - from);
            for (unsigned d = 0; d < message.descriptor_count; d++) {
                if (message.descriptors[d] >= 0)
                    close(message.descriptors[d]);
            }
        }
        if (status == STATUS_INVALID) {
            cut_off(vm, &err);
        } else if (status != STATUS_OK) { /* no memory: not its fault, it is tried again */
            complain(vm, &err);
            vm_link_close(vm);
        }
    }
}

static void on_message(void *context, uint32_t events)
{
    vm_link_read(context);
}

enum status vm_link_open(struct vm *vm, struct error *err)
{
    vm->stage = VM_GREETING;
    vm->has_target = vm->has_reported = false;
    vm->tokens = BURST_NS;
    vm->tokens_at = clock_monotonic_ns();
    return io_source_create(&vm->source, vm->manager->loop, vm->fd, EPOLLIN, on_message, vm, err);
}
