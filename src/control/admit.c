#include "control/admit.h"

#include <unistd.h>

#include "control/client.h"

enum status control_admit(struct control_folder *folder, const char *label,
                          const struct control_wish *wish, struct error *err)
{
    int fd;
    json_t *reply;
    json_t *request =
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:I, s:I}", "request", "admit", "name",
                  wish->name, "max", (json_int_t)wish->max, "min", (json_int_t)wish->min, "shares",
                  (json_int_t)wish->shares, "group", wish->group != NULL ? wish->group : "", "swap",
                  (json_int_t)wish->swap, "overhead", (json_int_t)wish->overhead);
    enum status status = client_send(folder, CONTROL_MANAGER, request, CLIENT_SECONDS, &fd, err);
    if (status != STATUS_OK)
        return status;
    status = client_receive(fd, label, &reply, err);
    close(fd);
    json_decref(reply);
    return status;
}
