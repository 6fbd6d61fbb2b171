#include "dev/virtio/forward.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/slirp.h"

static enum status port_parse(uint16_t *port, const char *digits, const char *text,
                              struct error *err)
{
    unsigned long value = 0;
    const char *c = digits;

    for (; *c >= '0' && *c <= '9' && value <= UINT16_MAX; c++)
        value = value * 10 + (unsigned long)(*c - '0');
    if (c == digits || *c != '\0' || value == 0 || value > UINT16_MAX)
        return error_set(err, STATUS_INVALID, "hostfwd=%s: '%s' is not a port (1 to 65535)", text,
                         digits);
    *port = (uint16_t)value;
    return STATUS_OK;
}

/* "[ADDR:]PORT"; cuts `part` in place. The address stays as it is when it is not given. */
static enum status endpoint_parse(struct in_addr *address, uint16_t *port, char *part,
                                  const char *text, struct error *err)
{
    char *colon = strrchr(part, ':');

    if (colon == NULL)
        return port_parse(port, part, text, err);
    *colon = '\0';
    if (*part != '\0' && inet_pton(AF_INET, part, address) != 1)
        return error_set(err, STATUS_INVALID, "hostfwd=%s: '%s' is not an IPv4 address", text,
                         part);
    return port_parse(port, colon + 1, text, err);
}

static bool guest_address_valid(struct in_addr address)
{
    uint32_t host = ntohl(address.s_addr);

    return (host & SLIRP_NETMASK) == SLIRP_NETWORK && host != SLIRP_NETWORK && host != SLIRP_HOST &&
           host != SLIRP_DNS && host != (SLIRP_NETWORK | ~SLIRP_NETMASK);
}

enum status forward_parse(struct forward *forward, const char *text, struct error *err)
{
    struct forward parsed = {
        .host_address.s_addr = htonl(INADDR_LOOPBACK),
        .guest_address.s_addr = htonl(SLIRP_DHCP_FIRST),
    };
    enum status status = STATUS_INVALID;
    char *copy = strdup(text);

    if (copy == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for hostfwd=%s", text);
    if (strncmp(copy, "udp:", 4) == 0) {
        parsed.udp = true;
    } else if (strncmp(copy, "tcp:", 4) != 0) {
        error_set(err, status, "hostfwd=%s: must begin with tcp: or udp:", text);
        goto out;
    }
    char *host = copy + 4;
    char *guest = strchr(host, '-');
    if (guest == NULL) {
        error_set(err, status, "hostfwd=%s: must be PROTOCOL:[ADDR:]PORT-[GUESTADDR:]GUESTPORT",
                  text);
        goto out;
    }
    *guest++ = '\0';
    status = endpoint_parse(&parsed.host_address, &parsed.host_port, host, text, err);
    if (status == STATUS_OK)
        status = endpoint_parse(&parsed.guest_address, &parsed.guest_port, guest, text, err);
    if (status == STATUS_OK && !guest_address_valid(parsed.guest_address))
        status =
            error_set(err, STATUS_INVALID,
                      "hostfwd=%s: the guest's address must be a free one in 10.0.2.0/24", text);
    if (status == STATUS_OK)
        *forward = parsed;
out:
    free(copy);
    return status;
}
