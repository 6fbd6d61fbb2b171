#include "cli/yaml_reader.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "util/size.h"

static void make_printable(char *text)
{
    for (; *text != '\0'; text++) {
        if (iscntrl((unsigned char)*text))
            *text = '?';
    }
}

static enum status mistake_at(struct yaml_reader *reader, size_t line, const char *what)
{
    error_set(reader->err, STATUS_INVALID, "%s:%zu: %s", reader->path, line + 1, what);
    if (reader->err != NULL)
        make_printable(reader->err->text);
    return STATUS_INVALID;
}

enum status yaml_open(struct yaml_reader *reader, const char *path, const char *text, size_t length,
                      struct error *err)
{
    yaml_parser_t parser;
    yaml_document_t second;
    enum status status = STATUS_OK;
    reader->path = path;
    reader->err = err;
    if (length > YAML_FILE_MOST)
        return error_set(err, STATUS_INVALID, "%s is longer than %u KiB", path,
                         YAML_FILE_MOST >> 10);
    if (!yaml_parser_initialize(&parser))
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
    if (!yaml_parser_load(&parser, &reader->document)) {
        const char *problem = parser.problem != NULL ? parser.problem : "this is not YAML";
        status = mistake_at(reader, parser.problem_mark.line, problem);
        goto out;
    }
    if (yaml_document_get_root_node(&reader->document) == NULL)
        status = error_set(err, STATUS_INVALID, "%s says nothing", path);
    else if (!yaml_parser_load(&parser, &second))
        status = mistake_at(reader, parser.problem_mark.line,
                            parser.problem != NULL ? parser.problem : "this is not YAML");
    else {
        const yaml_node_t *root = yaml_document_get_root_node(&second);
        if (root != NULL)
            status = mistake_at(reader, root->start_mark.line, "a second document begins here");
        yaml_document_delete(&second);
    }
    if (status != STATUS_OK)
        yaml_document_delete(&reader->document);
out:
    yaml_parser_delete(&parser);
    return status;
}

void yaml_close(struct yaml_reader *reader)
{
    yaml_document_delete(&reader->document);
}

unsigned yaml_line(const yaml_node_t *node)
{
    return (unsigned)node->start_mark.line + 1;
}

enum status yaml_mistake(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                         const char *format, ...)
{
    char what[ERROR_TEXT_SIZE], text[ERROR_TEXT_SIZE + 128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    snprintf(text, sizeof text, "%.100s: %s", key, what);
    return mistake_at(reader, node->start_mark.line, text);
}

const char *yaml_key(const yaml_node_t *key)
{
    return (const char *)key->data.scalar.value;
}

static bool is_text(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE &&
           strlen((const char *)node->data.scalar.value) == node->data.scalar.length;
}

/* "a, b and c" */
static void list_keys(char *text, size_t size, const char *const *keys, unsigned count)
{
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 i == 0           ? ""
                                 : i == count - 1 ? " and "
                                                  : ", ",
                                 keys[i]);
}

static enum status key_number(struct yaml_reader *reader, const yaml_node_t *key,
                              const char *const *keys, unsigned key_count, unsigned *number)
{
    char known[ERROR_TEXT_SIZE / 2];
    for (unsigned i = 0; i < key_count; i++) {
        if (strcmp(yaml_key(key), keys[i]) == 0) {
            *number = i;
            return STATUS_OK;
        }
    }
    list_keys(known, sizeof known, keys, key_count);
    return yaml_mistake(reader, key, yaml_key(key), "no such key; there are %s", known);
}

enum status yaml_mapping(struct yaml_reader *reader, const yaml_node_t *node, const char *name,
                         const char *const *keys, unsigned key_count, yaml_take_fn *take,
                         void *context)
{
    if (node->type != YAML_MAPPING_NODE)
        return yaml_mistake(reader, node, name, "this must be keys with values, \"KEY: VALUE\"");
    const yaml_node_pair_t *pairs = node->data.mapping.pairs.start;
    size_t count = (size_t)(node->data.mapping.pairs.top - pairs);
    if (count > YAML_KEYS_MOST)
        return yaml_mistake(reader, node, name, "more than %u keys", YAML_KEYS_MOST);
    for (size_t i = 0; i < count; i++) {
        const yaml_node_t *key = yaml_document_get_node(&reader->document, pairs[i].key);
        unsigned number = (unsigned)i;
        if (!is_text(key))
            return yaml_mistake(reader, key, name, "a key must be a word");
        for (size_t other = 0; other < i; other++) {
            const yaml_node_t *before = yaml_document_get_node(&reader->document, pairs[other].key);
            if (strcmp(yaml_key(before), yaml_key(key)) == 0)
                return yaml_mistake(reader, key, yaml_key(key), "is there already, in line %u",
                                    yaml_line(before));
        }
        enum status status =
            keys == NULL ? STATUS_OK : key_number(reader, key, keys, key_count, &number);
        if (status == STATUS_OK)
            status = take(reader, context, number, key,
                          yaml_document_get_node(&reader->document, pairs[i].value));
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status yaml_text(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                      const char **text)
{
    *text = "";
    if (!is_text(node))
        return yaml_mistake(reader, node, key, "this must be one value");
    *text = (const char *)node->data.scalar.value;
    bool is_plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (is_plain && (**text == '\0' || strcmp(*text, "~") == 0 || strcmp(*text, "null") == 0))
        return yaml_mistake(reader, node, key, "has no value");
    return STATUS_OK;
}

enum status yaml_size(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                      uint64_t least, uint64_t most, const char *range, uint64_t *size)
{
    const char *text;
    enum status status = yaml_text(reader, node, key, &text);
    if (status != STATUS_OK)
        return status;
    if (size_parse(text, size) != STATUS_OK)
        return yaml_mistake(reader, node, key, "%.60s is not a size; write it like 256M or 1G",
                            text);
    if (*size < least || *size > most)
        return yaml_mistake(reader, node, key, "%.60s is out of range; give %s", text, range);
    return STATUS_OK;
}

enum status yaml_number(struct yaml_reader *reader, const yaml_node_t *node, const char *key,
                        uint64_t least, uint64_t most, uint64_t *number)
{
    const char *text;
    enum status status = yaml_text(reader, node, key, &text);
    if (status != STATUS_OK)
        return status;
    if (number_parse(text, least, most, number) != STATUS_OK)
        return yaml_mistake(reader, node, key, "%.60s is not a number from %" PRIu64 " to %" PRIu64,
                            text, least, most);
    return STATUS_OK;
}
