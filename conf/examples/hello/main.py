"""Writes a small result file, and tells about it slowly enough to be watched."""

import os
import time

NAME = os.environ.get("GREETING_NAME", "world")
STEPS = 4

os.makedirs("results", exist_ok=True)
with open("results/output.txt", "w", encoding="utf-8") as output:
    for step in range(1, STEPS + 1):
        # Flushed, so that each line can be seen while the job runs.
        print(f"step {step} of {STEPS}", flush=True)
        output.write(f"line {step}\n")
        time.sleep(0.5)
    output.write(f"Hello, {NAME}!\n")

print("wrote results/output.txt", flush=True)
