"""Tokens from a checkpoint through the C interface by ctypes: generate.py LIBRARY [-m FOLDER] [-n TOKENS]
[--stop TEXT] [-i] [TEXT]."""

import argparse
import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p


class GenerateOptions(ctypes.Structure):
    ON_TEXT = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(ctypes.c_char), c_size_t)
    _fields_ = [
        ("struct_size", c_size_t), ("max_new_tokens", c_size_t), ("eos_token_ids", POINTER(c_uint32)),
        ("n_eos_token_ids", c_size_t), ("temperature", c_float), ("top_k", c_uint32), ("top_p", c_float), ("min_p", c_float),
        ("repetition_penalty", c_float), ("reserved", c_uint32), ("seed", c_uint64), ("user", c_void_p), ("on_token", c_void_p),
        ("on_text", ON_TEXT), ("tokenizer", c_void_p), ("on_logits", c_void_p),
        ("stop_strings", POINTER(c_char_p)), ("n_stop_strings", c_size_t),
    ]


class Generated(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("n_tokens", c_size_t), ("finish", c_int32), ("reserved", c_int32),
        ("prefill_tokens", c_size_t), ("prefill_seconds", c_double), ("decode_tokens", c_size_t), ("decode_seconds", c_double),
    ]


class Doge:
    """The library; every handle lives as long as the process."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.doge_last_error.restype = c_char_p
        if self.lib.doge_abi_version() != 1:
            raise RuntimeError("another version of the library")

    def call(self, name, *arguments):
        status = getattr(self.lib, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name}: {self.lib.doge_last_error().decode()}")

    def make(self, name, *arguments):
        """Calls a function that makes a handle."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle

    def encode(self, tokenizer, text):
        data = text.encode()
        ids, n = (c_uint32 * (len(data) + 8))(), c_size_t()
        self.call("doge_tokenizer_encode", tokenizer, data, c_size_t(len(data)), 1, 1, ids, c_size_t(len(ids)), byref(n))
        return ids[: n.value]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("library")
    args.add_argument("-m", dest="folder")
    args.add_argument("-n", dest="tokens", type=int, default=50)
    args.add_argument("--stop", action="append", default=[])
    args.add_argument("-i", dest="only_ids", action="store_true")
    args.add_argument("text", nargs="?", default="ROMEO.\n")
    args = args.parse_intermixed_args()

    doge = Doge(args.library)
    folder = args.folder.encode() if args.folder else None
    cpu = doge.make("doge_cpu_new", None)
    model = doge.make("doge_model_load", folder, None) if folder else doge.make("doge_model_embedded", None)
    tokenizer = doge.make("doge_tokenizer_load", folder) if folder else doge.make("doge_tokenizer_embedded")
    session = doge.make("doge_session_new", model, cpu, None)
    prompt = doge.encode(tokenizer, args.text)

    @GenerateOptions.ON_TEXT
    def on_text(_user, text, n):
        sys.stdout.buffer.write(text[:n])
        sys.stdout.flush()
        return 0

    eos, n_eos = (c_uint32 * 8)(), c_size_t()
    doge.call("doge_tokenizer_eos", tokenizer, eos, c_size_t(len(eos)), byref(n_eos))
    options = GenerateOptions(struct_size=ctypes.sizeof(GenerateOptions), max_new_tokens=args.tokens, eos_token_ids=eos,
                              n_eos_token_ids=n_eos.value)
    stops = (c_char_p * len(args.stop))(*(stop.encode() for stop in args.stop))
    options.tokenizer, options.stop_strings, options.n_stop_strings = tokenizer, stops, len(stops)
    if not args.only_ids:
        options.on_text = on_text
    ids, result = (c_uint32 * args.tokens)(), Generated(struct_size=ctypes.sizeof(Generated))
    doge.call("doge_generate", session, (c_uint32 * len(prompt))(*prompt), c_size_t(len(prompt)), byref(options), ids,
              c_size_t(args.tokens), byref(result))
    print(*ids[: result.n_tokens] if args.only_ids else "")
    print(f"{result.n_tokens} tokens in {result.prefill_seconds + result.decode_seconds:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
