# A table of objects in memory, looked up at random: what is found must be what was put there.
import random
import time

random.seed(1)
table = {}
while True:
    for number in range(20000):
        key = random.randrange(150000)
        table[key] = (key, str(key) * 8, [key ^ 0x5555])
    found = 0
    for number in range(60000):
        key = random.randrange(150000)
        entry = table.get(key)
        if entry is None:
            continue
        found += 1
        if entry != (key, str(key) * 8, [key ^ 0x5555]):
            print(f"demo: FAILED {key} is {entry}")
    print(f"demo: round {found} objects verified")
    time.sleep(1)
