#ifndef AEROSTAT_HOSTD_HOST_MEMORY_H
#define AEROSTAT_HOSTD_HOST_MEMORY_H

/* How much memory this host has to spare: what it calls available, or what the memory cgroup (v1 or
 * v2) of this process and those above leave, if that is less. */

#include <stdint.h>

/* Bytes; 0 where nothing can be read. `root` is put before all paths: "" but in tests. */
uint64_t host_memory_spare(const char *root);

#endif
