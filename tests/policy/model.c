/* See model.h. */

#include "model.h"

#include <math.h>

#define PAGE 4096u

double model_price(const struct policy_vm *vm, double tax, uint64_t pages)
{
    if (pages == 0)
        return HUGE_VAL;
    double k = 1 / (1 - tax), p = (double)pages;
    uint64_t in_use = vm->is_paused ? 0 : vm->active / PAGE;
    double active = fmin((double)in_use / p, 1);
    return (double)vm->shares / (p * (active + k * (1 - active)));
}

void model_divide(struct policy_vm *const *vms, size_t count, double tax, uint64_t pages,
                  uint64_t *got)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += got[i] = vms[i]->max / PAGE;
    while (sum > pages) {
        size_t poorest = count;
        double least = HUGE_VAL;
        for (size_t i = 0; i < count; i++) {
            double price = model_price(vms[i], tax, got[i]);
            if (got[i] > vms[i]->min / PAGE && price < least) {
                least = price;
                poorest = i;
            }
        }
        if (poorest == count)
            return;
        got[poorest]--;
        sum--;
    }
}
