#ifndef AEROSTAT_CLI_COMMAND_H
#define AEROSTAT_CLI_COMMAND_H

/* One subcommand of `aerostat`, a file each. argv[0] is its name; returns the exit status. */
struct command {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
};

int run_command(int argc, char **argv);
int up_command(int argc, char **argv);
int down_command(int argc, char **argv);
int memory_command(int argc, char **argv);
int set_command(int argc, char **argv);
int plan_command(int argc, char **argv);
int ps_command(int argc, char **argv);
int stats_command(int argc, char **argv);
int top_command(int argc, char **argv);
int balloon_command(int argc, char **argv);
int resident_command(int argc, char **argv);
int pause_command(int argc, char **argv);
int resume_command(int argc, char **argv);
int stop_command(int argc, char **argv);
int console_command(int argc, char **argv);

#endif
