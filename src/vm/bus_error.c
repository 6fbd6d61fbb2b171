#include "vm/bus_error.h"

#include <signal.h>
#include <unistd.h>

#include "vm/exit_status.h"

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    static const char line[] = "aerostat: error: guest memory is lost: the host cannot give a page "
                               "of it (SIGBUS)\n";
    (void)context;
    if (info->si_code <= 0) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
    (void)written;
    _exit(EXIT_STATUS_FAILURE);
}

void bus_error_watch(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
