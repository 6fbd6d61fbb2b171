/* See sample.h. */

#include "mem/sample.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mem/page_leave.h"
#include "util/clock.h"
#include "util/xorshift.h"

#define BATCHES (SAMPLE_PAGES_MOST / PAGE_BATCH_MAX)

/* Gains. Half of a step shows after one period in the fast average, after five in the slow one. */
#define FAST_GAIN 0.5
#define SLOW_GAIN 0.125

/* Between two looks at the VM's time, while it is nearly still. */
#define STEP_LEAST (NS_PER_SECOND / 10)
#define STEP_MOST  (30 * NS_PER_SECOND)

struct sample {
    struct sample_config config;
    uint64_t max_pages, seed;
    struct io_timer *timer;

    /* Of sample_step. */
    struct page_batch batches[BATCHES];
    bool has_begun;
    uint64_t period_start, last_time, wait_ns;
    uint64_t host_start; /* of the period, by the host's clock */

    pthread_mutex_t lock; /* leaf; guards what follows */
    unsigned picked;      /* pages in the sample of this period */
    uint64_t touches_before;
    double slow, fast;
    uint64_t periods;
};

static uint64_t touches(const struct sample *sample)
{
    struct pmap_stats stats;
    pmap_get_stats(sample->config.map, &stats);
    return stats.sample_touches;
}

static uint64_t host_time(const struct sample *sample)
{
    const struct sample_config *config = &sample->config;
    return config->host_time_ns != NULL ? config->host_time_ns(config->context)
                                        : clock_monotonic_ns();
}

static void period_begin(struct sample *sample, uint64_t now, uint64_t host_now)
{
    unsigned left = sample->config.pages, picked = 0;
    uint64_t before = touches(sample);
    for (unsigned i = 0; i < BATCHES; i++) {
        struct page_batch *batch = &sample->batches[i];
        batch->count = left < PAGE_BATCH_MAX ? left : PAGE_BATCH_MAX;
        left -= batch->count;
        for (unsigned j = 0; j < batch->count; j++)
            batch->ppn[j] =
                pmap_nth_page(sample->config.map, xorshift_next(&sample->seed) % sample->max_pages);
        page_sample_begin(sample->config.map, batch);
        picked += batch->count;
    }
    sample->period_start = now;
    sample->host_start = host_now;
    sample->has_begun = true;
    pthread_mutex_lock(&sample->lock);
    sample->picked = picked;
    sample->touches_before = before;
    pthread_mutex_unlock(&sample->lock);
}

static unsigned sample_pages_end(struct sample *sample)
{
    unsigned touched = 0;
    for (unsigned i = 0; i < BATCHES; i++)
        touched += page_sample_end(sample->config.map, &sample->batches[i]);
    return touched;
}

static double moved(double average, double to, double gain)
{
    return average + gain * (to - average);
}

static void period_end(struct sample *sample)
{
    unsigned touched = sample_pages_end(sample);
    pthread_mutex_lock(&sample->lock);
    double part = sample->picked != 0 ? (double)touched / sample->picked : 0;
    bool first = sample->periods++ == 0;
    sample->fast = first ? part : moved(sample->fast, part, FAST_GAIN);
    sample->slow = first ? part : moved(sample->slow, part, SLOW_GAIN);
    sample->picked = 0;
    pthread_mutex_unlock(&sample->lock);
}

uint64_t sample_step(struct sample *sample)
{
    const struct sample_config *config = &sample->config;
    uint64_t now = config->vm_time_ns(config->context), host_now = host_time(sample);
    if (sample->has_begun && (now - sample->period_start >= config->period_ns ||
                              host_now - sample->host_start >= config->idle_ns)) {
        period_end(sample);
        sample->has_begun = false;
    }
    if (!sample->has_begun)
        period_begin(sample, now, host_now);
    /* It cannot be over before all CPUs have run all the time; and one that stands still is looked
     * at less and less. */
    uint64_t left = (config->period_ns - (now - sample->period_start)) / config->cpus;
    uint64_t host_left = config->idle_ns - (host_now - sample->host_start);
    sample->wait_ns = now == sample->last_time ? 2 * sample->wait_ns : STEP_LEAST;
    if (sample->wait_ns > STEP_MOST)
        sample->wait_ns = STEP_MOST;
    sample->last_time = now;
    left = left > sample->wait_ns ? left : sample->wait_ns;
    return left < host_left ? left : host_left;
}

static void on_timer(void *context)
{
    struct sample *sample = context;
    io_timer_arm(sample->timer, clock_monotonic_ns() + sample_step(sample));
}

enum status sample_create(struct sample **out, const struct sample_config *config,
                          struct error *err)
{
    struct pmap_stats stats;
    if (config->pages == 0 || config->pages > SAMPLE_PAGES_MOST || config->cpus == 0 ||
        config->period_ns == 0 || config->idle_ns < config->period_ns || config->seed == 0)
        return error_set(err, STATUS_INVALID, "a sample of %u pages", config->pages);
    struct sample *sample = calloc(1, sizeof *sample);
    if (sample == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for sampling");
    pmap_get_stats(config->map, &stats);
    sample->config = *config;
    sample->max_pages = stats.max_pages;
    sample->seed = config->seed;
    sample->wait_ns = STEP_LEAST;
    pthread_mutex_init(&sample->lock, NULL);
    if (config->loop != NULL) {
        enum status status = io_timer_create(&sample->timer, config->loop, on_timer, sample, err);
        if (status != STATUS_OK) {
            sample_destroy(sample);
            return status;
        }
        io_timer_arm(sample->timer, clock_monotonic_ns() + STEP_LEAST);
    }
    *out = sample;
    return STATUS_OK;
}

void sample_destroy(struct sample *sample)
{
    if (sample == NULL)
        return;
    if (sample->timer != NULL)
        io_timer_destroy(sample->timer);
    if (sample->has_begun)
        sample_pages_end(sample);
    pthread_mutex_destroy(&sample->lock);
    free(sample);
}

void sample_get(struct sample *sample, struct sample_info *info)
{
    uint64_t touched_ever = touches(sample);
    pthread_mutex_lock(&sample->lock);
    double now = 0;
    if (sample->picked != 0) {
        uint64_t touched = touched_ever - sample->touches_before;
        double part = touched < sample->picked ? (double)touched / sample->picked : 1;
        now = sample->periods == 0 ? part : moved(sample->fast, part, FAST_GAIN);
    }
    *info = (struct sample_info){
        .slow = sample->slow, .fast = sample->fast, .now = now, .periods = sample->periods};
    pthread_mutex_unlock(&sample->lock);
    double most = info->slow > info->fast ? info->slow : info->fast;
    most = most > now ? most : now;
    info->active_pages = (uint64_t)(most * (double)sample->max_pages + 0.5);
}
