#ifndef AEROSTAT_UTIL_SIGNALS_H
#define AEROSTAT_UTIL_SIGNALS_H

#include <signal.h>

/* The signals by which users, terminals and service managers end a program in good order. */
void signals_that_end(sigset_t *set);

#endif
