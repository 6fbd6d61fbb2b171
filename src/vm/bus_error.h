#ifndef AEROSTAT_VM_BUS_ERROR_H
#define AEROSTAT_VM_BUS_ERROR_H

/* A touch of memory that the host cannot answer (SIGBUS: a faulty page; on Linux before 5.14 a host
 * that has none to give) ends the process: one line on standard error and EXIT_STATUS_FAILURE. A
 * SIGBUS that somebody has sent kills it as ever. To be called before generated code runs, whose
 * own faults are then asked for first (cpu/thunk/fault.c). */
void bus_error_watch(void);

#endif
