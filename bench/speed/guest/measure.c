/*
 * How long a benchmark takes, by the guest's monotonic clock.
 *
 * A calibration finds how many calls fill a sample, and warms caches, branch predictors and a
 * translator's code cache while it does; then come three samples, and the median counts. Where a
 * single call takes longer than a sample (a slow engine), fewer samples must do: none is begun once
 * the time limit has passed.
 */
#include <stdio.h>

#include "bench.h"

enum { SAMPLES = 3 };

static const uint64_t SAMPLE_NS = 100000000;      /* what a sample should take */
static const uint64_t CALIBRATION_NS = 20000000;  /* long enough to reckon from */
static const uint64_t TIME_LIMIT_NS = 1000000000; /* of all samples */

static bool time_calls(const struct bench *bench, void *state, uint64_t calls, uint64_t *elapsed)
{
    bool right = true;
    uint64_t start = clock_now();
    for (uint64_t i = 0; i < calls; i++)
        right &= bench->run(state);
    *elapsed = clock_now() - start;
    return right && (!bench->check || bench->check(state));
}

static double median_of(double *values, unsigned count)
{
    for (unsigned i = 1; i < count; i++) {
        for (unsigned j = i; j > 0 && values[j - 1] > values[j]; j--) {
            double value = values[j];
            values[j] = values[j - 1];
            values[j - 1] = value;
        }
    }
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static bool take_samples(const struct bench *bench, void *state, double *median)
{
    uint64_t calls = 1, elapsed;
    for (;;) {
        if (!time_calls(bench, state, calls, &elapsed))
            return false;
        if (elapsed >= CALIBRATION_NS)
            break;
        calls *= elapsed < CALIBRATION_NS / 10 ? 10 : 2;
    }
    calls = calls * SAMPLE_NS / elapsed;
    if (calls == 0)
        calls = 1;

    double samples[SAMPLES];
    unsigned count = 0;
    uint64_t start = clock_now();
    do {
        if (!time_calls(bench, state, calls, &elapsed))
            return false;
        samples[count++] = (double)elapsed / ((double)calls * (double)bench->units);
    } while (count < SAMPLES && clock_now() - start < TIME_LIMIT_NS);
    *median = median_of(samples, count);
    return true;
}

bool bench_measure(const struct bench *bench, const struct bench_env *env)
{
    void *state = NULL;
    if (bench->setup && !(state = bench->setup(env, bench->argument))) {
        printf("bench %s failed\n", bench->name);
        return false;
    }
    double median;
    bool right = take_samples(bench, state, &median);
    if (right)
        printf("bench %s %.3f ns/%s\n", bench->name, median, bench->unit);
    else
        printf("bench %s wrong\n", bench->name);
    if (bench->teardown)
        bench->teardown(state);
    return right;
}
