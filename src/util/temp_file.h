#ifndef AEROSTAT_UTIL_TEMP_FILE_H
#define AEROSTAT_UTIL_TEMP_FILE_H

/* Files that nobody else sees, and that are gone when they are closed. */

/* The folder for large ones: `chosen`, or where that is NULL $TMPDIR, or /var/tmp. */
const char *temp_file_folder(const char *chosen);

/* An empty file without a name in the folder, open for reading and writing, closed on exec; or -1
 * and errno. */
int temp_file_open(const char *folder);

#endif
