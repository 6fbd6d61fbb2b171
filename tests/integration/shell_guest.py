"""A small guest with a shell on its console, for tests and benchmarks that talk to it."""

import subprocess

import harness

SECONDS = 120  # for one order; there to end what hangs


class ShellGuest(harness.Vm):
    """
        with ShellGuest(arguments_of("256M")) as guest:
            guest.wait_for_shell()
            print(guest.run("uname -r"))
            status = guest.power_off()
    """

    def __init__(self, arguments, command=None, **options):
        self._orders = 0
        super().__init__(arguments, command, stdin=subprocess.PIPE, **options)

    def wait_for_shell(self):
        self.expect(r"powers the machine off")

    def run(self, commands, seconds=SECONDS):
        """Runs commands in the guest's shell, all of which must succeed; gives what they print."""
        self._orders += 1
        self.forget()
        self.send(f"({commands}) && echo good-$((1000 + {self._orders}))"
                  f" || echo bad-$((1000 + {self._orders}))\n")
        match = self.expect(rf"^(good|bad)-{1000 + self._orders}$", seconds)
        if match.group(1) == "bad":
            raise AssertionError(f"{commands} failed\n{self.report()}")
        return self.console[:match.start()]

    def power_off(self):
        self.send("exit\n")
        return self.wait(SECONDS)


def arguments_of(memory, append=""):
    """Arguments of `aerostat run` for such a guest."""
    arguments = harness.boot_arguments("", memory=memory, append=append)
    arguments[-1] = arguments[-1].replace(' run=""', "")
    return arguments
