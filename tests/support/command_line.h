#ifndef AEROSTAT_TESTS_SUPPORT_COMMAND_LINE_H
#define AEROSTAT_TESTS_SUPPORT_COMMAND_LINE_H

/* A command line, for tests of what programs make of theirs. After cmocka.h. */

#include <stdint.h>
#include <string.h>

#define COMMAND_LINE_WORDS 40u

struct command_line {
    int argc;
    char *argv[COMMAND_LINE_WORDS + 1];
    char words[1024];
};

/* Splits a line at spaces; a word '_' stands for an empty argument. A line too long ends the test.
 */
static inline void command_line_split(struct command_line *command, const char *program,
                                      const char *line)
{
    *command = (struct command_line){.argc = 1, .argv = {(char *)(uintptr_t)program}};
    assert_true(strlen(line) < sizeof command->words);
    strcpy(command->words, line);
    for (char *word = strtok(command->words, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(command->argc < (int)COMMAND_LINE_WORDS);
        command->argv[command->argc++] = strcmp(word, "_") == 0 ? (char *)(uintptr_t) "" : word;
    }
}

#endif
