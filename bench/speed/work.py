"""Two jobs for an interpreter in a guest; bench/speed/guest/programs.c runs them and knows results.

    python3 -S work.py python|sqlite|modules

`modules` prints the files of all modules that the jobs need, for stage.py to copy. Only built-in
and hash-independent things are used, so that every version of Python prints the same.
"""

import sys


class Account:
    """Something with attributes and methods, since that is what programs are made of."""

    def __init__(self, number):
        self.number = number
        self.balance = 0

    def deposit(self, amount):
        self.balance = (self.balance * 31 + amount) % 1000003


def numbers(count, seed):
    """A linear congruential generator's numbers."""
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield seed


def python():
    """Objects, dictionaries, strings, sorting, large integers."""
    accounts = {}
    for number in numbers(20000, 1):
        account = accounts.setdefault(number % 997, Account(number % 997))
        account.deposit(number)
    words = [f"{number:x}"[:4] for number in numbers(20000, 2)]
    counts = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    ranking = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    text = " ".join(word for word, _ in ranking).upper().replace("A", "-")
    total = 0
    for account in sorted(accounts.values(), key=lambda account: account.number):
        total = total * 1000003 + account.balance
    return f"{total % 0xFFFFFFFFFFFFFFC5:x} {len(text)} {text.count('-')} {ranking[0][0]}"


def sqlite():
    """A database in memory: inserts, an index, a join, updates, aggregates."""
    import sqlite3  # only this job is to pay for loading it

    database = sqlite3.connect(":memory:")
    database.execute("create table customer (id integer primary key, name text, region integer)")
    database.execute("create table sale (id integer primary key, customer integer, cents integer)")
    with database:
        database.executemany("insert into customer (name, region) values (?, ?)",
                             ((f"customer {number}", number % 16)
                              for number in numbers(1000, 3)))
        database.executemany("insert into sale (customer, cents) values (?, ?)",
                             ((number % 1000 + 1, number >> 8 & 0xFFFF)
                              for number in numbers(20000, 4)))
    with database:
        database.execute("create index sale_customer on sale (customer)")
        database.execute("update sale set cents = cents + 7 where id % 3 = 0")
    rows = database.execute(
        "select region, count(*), sum(cents), min(name) from sale join customer"
        " on customer.id = sale.customer group by region order by region").fetchall()
    best = database.execute(
        "select name, sum(cents) as total from customer join sale on sale.customer = customer.id"
        " group by customer.id order by total desc, name limit 1").fetchone()
    total = 0
    for region, count, cents, _ in rows:
        total = (total * 1000003 + region * 31 + count * 17 + cents) % 0xFFFFFFFFFFFFFFC5
    return f"{total:x} {len(rows)} {rows[0][3]} {best[0]} {best[1]}"


def modules():
    sqlite()
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return "\n".join(sorted({file for file in files if file and file != __file__}))


if __name__ == "__main__":
    print({"python": python, "sqlite": sqlite, "modules": modules}[sys.argv[1]]())
