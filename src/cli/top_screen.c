/* The screen of `aerostat top`: ncurses, the keyboard and signals in one loop. What is shown is
 * top_layout's. */

#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <term.h>
#include <unistd.h>

#include "cli/top.h"
#include "util/clock.h"
#include "util/signals.h"

#define ESCAPE_MS 25 /* an arrow key's bytes come together */
#define CONTROL_L 12

struct screen {
    struct control_folder *folder;
    struct top_view view;
    struct top_sample now, before;
    struct error err; /* of the last look */
    int signals;
    int ended_by; /* a signal, or 0 */
    bool has_quit;
    bool is_to_stop;
};

static void draw_line(void *context, const struct top_line *line)
{
    static const attr_t attributes[] = {
        [TOP_PLAIN] = A_NORMAL, [TOP_STRONG] = A_BOLD, [TOP_ALARM] = A_BOLD | A_REVERSE,
        [TOP_HEAD] = A_REVERSE, [TOP_FOOT] = A_NORMAL,
    };
    int *row = context;
    mvaddstr(*row, 0, line->text);
    if (line->style != TOP_PLAIN)
        mvchgat(*row, 0, -1, attributes[line->style], 0, NULL);
    if (line->mark_length > 0)
        mvchgat(*row, (int)line->mark, (int)line->mark_length, A_BOLD | A_UNDERLINE, 0, NULL);
    ++*row;
}

static void draw(struct screen *screen)
{
    char text[TOP_TIME_SIZE];
    int row = 0;
    screen->view.width = (unsigned)COLS;
    screen->view.height = (unsigned)LINES;
    screen->view.time = top_time(text);
    screen->view.note = screen->err.status == STATUS_OK ? NULL : screen->err.text;
    erase();
    top_layout(&screen->view, &screen->now, &screen->before, draw_line, &row);
    screen->view.time = screen->view.note = NULL;
    move(LINES - 1, COLS - 1);
    refresh();
}

/* What there was stays to be seen where the manager does not answer. */
static void look(struct screen *screen)
{
    struct top_sample sample;
    screen->err = (struct error){0};
    if (top_ask(screen->folder, &sample, &screen->err) != STATUS_OK) {
        top_sample_close(&sample);
        return;
    }
    top_sample_close(&screen->before);
    screen->before = screen->now;
    screen->now = sample;
}

static void take_keys(struct screen *screen)
{
    static const struct {
        int curses, ours;
    } keys[] = {
        {KEY_LEFT, TOP_LEFT}, {KEY_RIGHT, TOP_RIGHT},   {KEY_UP, TOP_UP},
        {KEY_DOWN, TOP_DOWN}, {KEY_PPAGE, TOP_PAGE_UP}, {KEY_NPAGE, TOP_PAGE_DOWN},
    };
    for (int key; (key = getch()) != ERR;) {
        if (key == 'q')
            screen->has_quit = true;
        if (key == CONTROL_L)
            clearok(curscr, TRUE);
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
            if (key == keys[i].curses) {
                key = keys[i].ours;
                break;
            }
        }
        /* Codes of other keys mean other things here. */
        if (key < KEY_MIN || key >= TOP_LEFT)
            top_view_key(&screen->view, key);
    }
}

static void follow_size(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
        resizeterm(size.ws_row, size.ws_col);
}

static void take_signals(struct screen *screen)
{
    struct signalfd_siginfo info;
    while (read(screen->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGWINCH)
            follow_size();
        else if (info.ssi_signo == SIGTSTP)
            screen->is_to_stop = true;
        else
            screen->ended_by = (int)info.ssi_signo;
    }
}

/* Ctrl-Z. The shell has the terminal until it continues this program, and may give it another size.
 * Where nobody could continue it, the kernel does not stop it. */
static void stop(struct screen *screen)
{
    struct sigaction own;
    sigset_t set;
    screen->is_to_stop = false;
    sigemptyset(&set);
    sigaddset(&set, SIGTSTP);
    endwin();
    sigaction(SIGTSTP, &(struct sigaction){.sa_handler = SIG_DFL}, &own);
    raise(SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &set, NULL); /* here it stops */
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigaction(SIGTSTP, &own, NULL);
    follow_size();
    keypad(stdscr, TRUE); /* endwin has told the terminal otherwise */
}

/* Until a key, a signal, or the time. */
static void wait_until(struct screen *screen, uint64_t deadline_ns)
{
    struct pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                           {.fd = screen->signals, .events = POLLIN}};
    uint64_t now = clock_monotonic_ns();
    uint64_t left = deadline_ns > now ? deadline_ns - now : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_SECOND),
                               .tv_nsec = (long)(left % NS_PER_SECOND)};
    if (ppoll(fds, 2, &timeout, NULL) < 0) /* stopped and continued: all is drawn again */
        return;
    if (fds[1].revents != 0)
        take_signals(screen);
    if (fds[0].revents & POLLIN)
        take_keys(screen);
    else if (fds[0].revents != 0) /* the terminal is gone */
        screen->has_quit = true;
}

static void run(struct screen *screen, uint64_t interval_ns)
{
    uint64_t next = clock_monotonic_ns();
    while (!screen->has_quit && screen->ended_by == 0) {
        uint64_t now = clock_monotonic_ns();
        if (now >= next) {
            look(screen);
            next = now - next < interval_ns ? next + interval_ns : now + interval_ns;
        }
        draw(screen);
        wait_until(screen, next);
        if (screen->is_to_stop)
            stop(screen);
    }
}

static void never_called(int number)
{
    (void)number;
}

/* Blocks what the screen is told by a descriptor. Ctrl-Z is among them: a handler of curses' own
 * would have it lost while the screen is drawn, and curses leaves it to a program that has one. */
static void signals_block(sigset_t *set, struct sigaction *stop_before, sigset_t *before)
{
    sigaction(SIGTSTP, NULL, stop_before);
    bool is_ignored = stop_before->sa_handler == SIG_IGN;
    signals_that_end(set);
    sigaddset(set, SIGWINCH);
    if (!is_ignored)
        sigaddset(set, SIGTSTP);
    sigprocmask(SIG_BLOCK, set, before);
    if (!is_ignored)
        sigaction(SIGTSTP, &(struct sigaction){.sa_handler = never_called}, NULL);
}

/* newterm would know as well, but forgets memory where it does not. */
static bool terminal_is_known(void)
{
    int result;
    if (setupterm(NULL, STDOUT_FILENO, &result) != OK)
        return false;
    del_curterm(cur_term);
    return true;
}

static enum status terminal_begin(SCREEN **terminal, struct error *err)
{
    set_escdelay(ESCAPE_MS);
    *terminal = terminal_is_known() ? newterm(NULL, stdout, stdin) : NULL;
    if (*terminal == NULL) {
        const char *type = getenv("TERM");
        return error_set(err, STATUS_UNSUPPORTED,
                         "TERM=%s is no terminal that is known here; try --plain",
                         type == NULL ? "" : type);
    }
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    curs_set(0);
    return STATUS_OK;
}

enum status top_screen(struct control_folder *folder, uint64_t interval_ns, struct error *err)
{
    struct screen screen = {.folder = folder, .view.sort = TOP_SORT_NAME};
    SCREEN *terminal;
    sigset_t set, before;
    struct sigaction stop_before;
    look(&screen); /* a manager that is not there is told without a screen */
    if (screen.err.status != STATUS_OK) {
        *err = screen.err;
        return err->status;
    }
    enum status status = STATUS_OK;
    signals_block(&set, &stop_before, &before);
    screen.signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (screen.signals < 0)
        status = error_set(err, STATUS_IO, "signalfd: %s", strerror(errno));
    if (status == STATUS_OK)
        status = terminal_begin(&terminal, err);
    if (status == STATUS_OK) {
        run(&screen, interval_ns);
        endwin();
        delscreen(terminal);
    }
    if (screen.signals >= 0)
        close(screen.signals);
    top_sample_close(&screen.now);
    top_sample_close(&screen.before);
    if (screen.ended_by != 0) { /* as it would have ended this program at once */
        signal(screen.ended_by, SIG_DFL);
        raise(screen.ended_by);
    }
    sigaction(SIGTSTP, &stop_before, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return status;
}
