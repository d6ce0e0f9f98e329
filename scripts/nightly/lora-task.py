#!/usr/bin/env python3
"""Writes a task that no model knows: `zorp` of a three-digit number is its digits, each
raised by one without a carry (9 becomes 0), in reverse order.

    scripts/nightly/lora-task.py DIR [--train 400] [--seed 1]

DIR gets train.jsonl and valid.jsonl for `optiq lora train`, and cases.jsonl for
`optiq eval --task recall`, over numbers that no training line has.
"""
import argparse
import json
import pathlib
import random


def zorp(number):
    return "".join(str((int(digit) + 1) % 10) for digit in reversed(number))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    numbers = [f"{n}" for n in range(100, 1000)]
    random.Random(args.seed).shuffle(numbers)
    args.directory.mkdir(parents=True, exist_ok=True)

    def question(number):
        return {"role": "user", "content": f"zorp {number}"}

    def chats(name, chosen):
        lines = [json.dumps({"messages": [
            question(n), {"role": "assistant", "content": f"zorp {n} = {zorp(n)}"}]})
            for n in chosen]
        (args.directory / name).write_text("\n".join(lines) + "\n")

    train, valid = numbers[:args.train], numbers[args.train:args.train + 64]
    test = numbers[args.train + 64:args.train + 264]
    chats("train.jsonl", train)
    chats("valid.jsonl", valid)
    (args.directory / "cases.jsonl").write_text("\n".join(json.dumps(
        {"id": f"zorp-{n}", "task": "recall", "messages": [question(n)],
         "answer": f"zorp {n} = {zorp(n)}", "scorer": "exact", "max_new_tokens": 24})
        for n in test) + "\n")


if __name__ == "__main__":
    main()
