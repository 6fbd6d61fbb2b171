#ifndef AEROSTAT_CLI_YAML_READER_H
#define AEROSTAT_CLI_YAML_READER_H

/*
 * A YAML file, and mistakes in it told as "vms.yaml:12: max: 1Q is not a size": every function that
 * returns a status fills the reader's error with such a line.
 *
 * libyaml's documents rather than libcyaml's structures: a mistake in a value, found by whoever
 * knows what the value means, has the line where it stands.
 */

#include <stdint.h>
#include <yaml.h>

#include "util/status.h"

#define YAML_FILE_MOST (1u << 20) /* bytes of a file */
#define YAML_KEYS_MOST 1024u      /* of one mapping */

struct yaml_reader {
    const char *path; /* for messages */
    yaml_document_t document;
    struct error *err;
};

/* Reads the one document that `text` must be. yaml_close is needed only after STATUS_OK. `path` and
 * `err` must stay. */
enum status yaml_open(struct yaml_reader *reader, const char *path, const char *text, size_t length,
                      struct error *err);
void yaml_close(struct yaml_reader *reader);

/* What may be wrong with `key` at this node. Characters that a terminal would obey become '?'. */
enum status yaml_mistake(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                         const char *format, ...) __attribute__((format(printf, 4, 5)));
unsigned yaml_line(const yaml_node_t *node); /* from 1 */

/* A mapping's pairs are handed to `take`, in order, with the number of the key in `keys`; without a
 * list every key may be there, and gets its own position. A key twice is a mistake, and so is one
 * that is not in the list. */
typedef enum status yaml_take_fn(struct yaml_reader *reader, void *context, unsigned number,
                                 const yaml_node_t *key, const yaml_node_t *value);
enum status yaml_mapping(struct yaml_reader *reader, const yaml_node_t *node, const char *name,
                         const char *const *keys, unsigned key_count, yaml_take_fn *take,
                         void *context);

/* A key's text: keys that were handed to `take` have one. */
const char *yaml_key(const yaml_node_t *key);

/* Values. Text is in the document; "", where it is quoted, counts. */
enum status yaml_text(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                      const char **text);
/* Bytes within [least, most]; `range` says that in words. */
enum status yaml_size(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                      uint64_t least, uint64_t most, const char *range, uint64_t *size);
enum status yaml_number(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                        uint64_t least, uint64_t most, uint64_t *number);

#endif
