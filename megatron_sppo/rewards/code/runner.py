# Runs inside the sandbox, given to `python -c`: nothing here is trusted by the parent. It knows no expected value.
# Descriptor 3: the program's length on a line, the program, then jobs, a Python literal each line. Descriptor 4: results.
# ruff: noqa: ANN001, ANN002, ANN201, B023, BLE001, PLR0911, S102, S307, SIM115
import sys


def start(mode):
    source = open(3, "rb", buffering=0 if mode == "stdio" else -1)
    length = int(source.readline())
    text = b""
    while len(text) < length:
        text += source.read(length - len(text))
    module = type(sys)("__main__" if mode == "stdio" else "program")
    sys.modules[module.__name__] = module
    sys.argv = ["program.py"]
    if mode == "stdio":
        source.close()
    code = compile(text.decode("utf-8", "replace"), "program.py", "exec", dont_inherit=True)
    return source, code, module.__dict__


def write_line(text):
    import os

    data = text.encode() + b"\n"
    while data:
        data = data[os.write(4, data) :]


def plain(value):
    """Plain values as JSON with tags; the type of anything else."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value) if -(2**63) < value < 2**63 else '{"i":"' + hex(value) + '"}'
    if isinstance(value, float):
        return '{"f":"' + float.hex(value) + '"}'
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, (bytes, bytearray)):
        return '{"b":"' + bytes(value).hex() + '"}'
    if isinstance(value, dict):
        return '{"d":[' + ",".join("[" + plain(key) + "," + plain(item) + "]" for key, item in value.items()) + "]}"
    for kind, opening, closing in ((list, "[", "]"), (tuple, '{"t":[', "]}"), ((set, frozenset), '{"s":[', "]}")):
        if isinstance(value, kind):
            return opening + ",".join(map(plain, value)) + closing
    return '{"o":' + quoted(type(value).__name__) + "}"


def call(space, name, arguments):
    function = space.get(name)
    if function is None:
        function = getattr(space["Solution"](), name)
    return function(*arguments)


def answer(space, kind, *job):
    if kind == "call":
        return call(space, *job)
    if kind == "value":
        return eval(job[0], space)
    exec(job[0], space)
    return job[1] if kind == "check" else None


def serve(jobs, code, space):
    from ast import literal_eval

    write_line(attempt(lambda: exec(code, space)))
    for line in jobs:
        write_line(attempt(lambda: answer(space, *literal_eval(line.decode()))))


def attempt(action):
    try:
        return '{"v":' + plain(action()) + "}"
    except BaseException as error:
        return '{"e":' + quoted(type(error).__name__) + "}"


if sys.argv[1] == "stdio":
    _, code, space = start("stdio")
    exec(code, space)
else:
    from _json import encode_basestring_ascii as quoted

    if sys.argv[1] == "solution":  # LeetCode's programs expect these names
        PRELUDE = "from typing import *\nfrom collections import *\nfrom functools import *\nfrom itertools import *\n"
        PRELUDE += "from heapq import *\nfrom bisect import *"
        PRELUDE += "\nimport collections, functools, heapq, itertools, math, random, re, string\n"
    else:
        PRELUDE = ""
    jobs, code, space = start("calls")
    exec(PRELUDE, space)
    serve(jobs, code, space)
