"""Decoder of `.ect` files, version 1, written from the format's specification alone."""

import io
import math
import re
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate, pairwise, product, takewhile
from operator import add, mul

import zstandard

DTYPES = "float32 float16 bfloat16 float64 float8_e4m3fn float8_e5m2 int8 int16 int32 int64 uint8 "
DTYPES = (DTYPES + "uint16 uint32 uint64 bool complex64").split()
ITEM_BYTES = (4, 2, 2, 8, 1, 1, 1, 2, 4, 8, 1, 2, 4, 8, 1, 8)
GRID_CODES = "fefd  bhiqBHI   "  # of struct; a bfloat16 is the upper half of a float32
ALIAS, CRC_OF_CRC = 3 << 4, 0x2144DF1C  # the CRC of any bytes with their CRC behind them
VARINT = re.compile(rb"[\0-\x7f]|[\x80-\xff]{1,8}[\1-\x7f]")
SHORT_NAME, SHORT_BYTE = rb"(\0[\0-\x1f]|[^\0-\x1f])*[\1-\5]?", rb"\0([\0-\x1f])|([\1-\5])"
ENDINGS = (b"", b".weight", b".bias", b".running_mean", b".running_var", b".num_batches_tracked")
UNIFORM = [range((1 << bits) + 1) for bits in range(31)]  # equal frequencies, as `starts` below
FIRST_P, FIRST_WEIGHT = {"zero": 98784247}, {"zero": 2048, "row": 16384, "column": 16384}
ORDERS = ((0, 1, 2, 3), (1, 2, 3, 0), (1, 0, 2, 3), (2, 3, 0, 1))  # axes, the outermost first
MAP = ((0, 0, 0, -1), (0, 0, -1, 0), (0, 0, -1, -1), (0, 0, -1, 1), (0, 0, 0, -2), (0, 0, -2, 0))
FIELD = [*product((0,), (-1, 0, 1), (-1, 0, 1))]
POINT = ((0, -1, 0, 0), (-1, 0, 0, 0), (-2, 0, 0, 0), (0, -2, 0, 0))  # a, b, d, e as in MAP
CURVE = [0, 1, 1, 2, 3, 5, 8, 13, 22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971]
CURVE += [7812, 11955, 17625, 24743]
CURVE += [32768, *(65536 - height for height in reversed(CURVE))]


def check(condition, message):
    if not condition:
        raise ValueError(message)


def clip(value, least, most):
    return min(max(value, least), most)


def squash(x):
    k, f = divmod(clip(x, -3071, 3071) + 3072, 128)
    return clip((CURVE[k] * (128 - f) + CURVE[k + 1] * f + 64) >> 7, 1, 65535)


SQUASHED = [squash(x) for x in range(-3071, 3071)]
REFINED = [squash(256 * i - 3072) << 16 for i in range(25)]
STRETCHED = [bisect_left(SQUASHED, p) - 3071 for p in range(65536)]


def density(nonzeros, items):
    sparse = clip((2 * items // max(nonzeros, 1)).bit_length() - 1, 0, 10)
    return 5 + sparse if nonzeros else min(3, items.bit_length() // 3)


class RangeDecoder:
    def __init__(self, data):
        self.rest, self.range = iter(data[6:]), (1 << 48) - 1
        self.code = int.from_bytes(data[:6].ljust(6, b"\0"), "big")
        check(self.code < self.range, "first code not allowed")

    def narrow(self, start, size):
        self.code, self.range = self.code - start, size
        while self.range < 1 << 40:
            self.code, self.range = self.code << 8 | next(self.rest, 0), self.range << 8

    def symbol(self, starts):  # the frequencies' sums before each symbol, and that of all
        unit = self.range // starts[-1]
        symbol = bisect_right(starts, self.code // unit) - 1
        self.narrow(starts[symbol] * unit, (starts[symbol + 1] - starts[symbol]) * unit)
        return symbol

    def stream(self, levels, count, most=24):  # the table, as starts, and the symbols
        scale, implied = (self.symbol(UNIFORM[n]) for n in (5, (levels - 1).bit_length()))
        frequencies = [0] * levels
        for level in range(levels):
            if level != implied and (n := self.symbol(UNIFORM[5])):
                frequencies[level] = (1 << n - 1) + self.symbol(UNIFORM[n - 1])
        frequencies[implied] = (1 << scale) - sum(frequencies)
        check(1 <= scale <= most and frequencies[implied] > 0, "table not allowed")
        starts = list(accumulate(frequencies, initial=0))
        symbols = [self.symbol(starts) for _ in range(count)]
        check(next(self.rest, None) is None, "stream too long")
        return starts, symbols


def read_rans_chunk(data, symbols, tokens, classes, starts):
    def take(lane, starts):
        high, low = divmod(x[lane], starts[-1])
        symbol = bisect_right(starts, low) - 1
        state = (starts[symbol + 1] - starts[symbol]) * high + low - starts[symbol]
        x[lane] = state if state >> 16 else state << 16 | words.pop()
        return symbol

    numbers = struct.unpack(f"<8I{len(data) // 2 - 16}H", data) if data else [1 << 16] * 8
    x, words, place = list(numbers[:8]), list(numbers[:7:-1]), 0
    check(min(x) >> 16 and bool(tokens) == bool(data), "rANS states not allowed")
    for i in range(tokens):
        lane = i % 4 * 2 + 1 if classes else i % 8
        run = take(lane - 1, classes) if classes else 0
        if run > 15:
            low, high = (take(lane - 1, UNIFORM[clip(run // 4 - n, 0, 16)]) for n in (2, 18))
            run = ((4 + run % 4) << (run // 4 - 2)) + low + (high << 16)
        symbols[place + run], place = take(lane, starts), place + run + 1
    check(x == [1 << 16] * 8 and not words, "rANS chunk ends wrongly")
    return symbols


class Reader(io.BytesIO):
    def take(self, size=-1):  # all that is left, without a size
        data = self.read(size)
        check(size in (-1, len(data)), "data end early")
        return data

    def varint(self, least=0, most=1 << 63):
        check(found := VARINT.match(self.getvalue(), self.tell()), "varint not allowed")
        value = sum((digit & 127) << 7 * i for i, digit in enumerate(self.take(len(found[0]))))
        check(least <= value <= most, "number out of range")
        return value

    def sized(self):
        return self.take(self.varint())

    def zstd(self, data, size):
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj()
        content = unpacker.decompress(data)
        check(unpacker.eof and not unpacker.unused_data and len(content) == size, "zstd frame ends")
        return content

    def codebook(self, dtype, least, most):
        levels, size, code = self.varint(least, most), ITEM_BYTES[dtype], GRID_CODES[dtype]
        if (given := ord(self.take(1))) == 0:
            return [self.take(size) for _ in range(levels)]
        (step,) = struct.unpack_from(f">{code}", self.take(given).ljust(8, b"\0"))
        first = (z := self.varint(0, 1 << 17)) >> 1 ^ -(z & 1)
        values = [index * step for index in range(first, first + levels)]
        fine = all(abs(v) < (math.inf if code in "fed" else 1 << 53 | 1) for v in values)
        check(fine and given <= size and first + levels <= 65537, "grid not allowed")
        if dtype == 2:
            values = [math.ldexp(round(m * 256), e - 8) for m, e in map(math.frexp, values)]
        return [struct.pack(f"<{code}", value or 0)[-size:] for value in values]  # never -0.0

    def rans(self, levels, count):
        (mode, c), symbols = self.take(2), []
        check(mode < 2 and 8 <= c <= 32, "rANS mode or chunks not allowed")
        zero, classes = (self.varint(0, levels - 1), self.varint(1, 128)) if mode else (0, 0)
        runs = RangeDecoder(self.sized()).stream(classes, 0, 16)[0] if mode else None
        starts, _ = RangeDecoder(self.sized()).stream(levels, 0, 16)
        counts = (min(1 << c, count - start) for start in range(0, count, 1 << c))
        for n, tokens, size in [(n, self.varint() if mode else n, self.varint()) for n in counts]:
            symbols += read_rans_chunk(self.take(size), [zero] * n, tokens, runs, starts)
        return symbols

    def plane(self, count):
        if (how := ord(self.take(1))) < 2:
            return self.take(1) * count if how else self.take(count)
        if how == 2:
            return self.zstd(self.sized(), count)
        low, high = self.take(2)
        check(how == 3 and low < high, "plane not allowed")
        return bytes(low + s for s in RangeDecoder(self.sized()).stream(high - low + 1, count)[1])

    def planes(self, size, count):
        distance, sign = divmod(self.varint(0, max(4 * count, 4) - 2), 4)
        items, bits, ones = [], 8 * size, (1 << 8 * size) - 1
        for digits in zip(*[self.plane(count) for _ in range(size)], strict=True):
            item = int.from_bytes(digits, "big")
            item ^= ones - 1 if sign == 2 and item & 1 else 0
            item = item >> 1 | (item & 1) << (bits - 1) if (0, 1, 1)[sign] else item
            items.append((item + (items[-distance] if 0 < distance <= len(items) else 0)) & ones)
        return b"".join(item.to_bytes(size, "little") for item in items)

    def hints(self, columns, dtype, shape, items):
        check(shape[0] > 1 and len(columns) % shape[0] == 0, "hints not allowed")
        flags = list(map(any, zip(*[iter(items)] * ITEM_BYTES[dtype], strict=True)))
        counts = [sum(row) for row in zip(*[iter(flags)] * (len(flags) // shape[0]), strict=True)]
        owners = (counts[i * shape[0] // len(columns)] for i in range(len(columns)))
        return {column: min(7, n.bit_length()) for column, n in zip(columns, owners, strict=True)}

    def context(self, codebook, shape, earlier):
        how, rows, columns = *self.take(1), *(*shape, 1)[:1], math.prod(shape[1:])
        height, width = (self.varint(), self.varint()) if how & 16 else (1, 1, *shape[2:])[-2:]
        check(how < 64 and columns % (height * width) == 0 and columns <= 1 << 18, "layout")
        axes = [range(size) for size in (columns // (height * width), height, width)]
        hints = self.hints(list(product(*axes)), *earlier[self.varint()]) if how & 32 else {}
        zero = next((s for s, item in enumerate(codebook) if not any(item)), 0)
        longest = max(zero, len(codebook) - 1 - zero).bit_length()
        most = clip((1 << 22) // columns, 1, 1 << 18)
        sizes = [*(self.varint() for _ in range(most, rows, most)), -1]
        for i, data in enumerate(map(self.take, sizes)):
            lot = range(min(most, rows - i * most))
            values = Chunk(data, how, [lot, *axes], hints, longest).decode()
            yield from (values[spot] + zero for spot in product(lot, *axes))

    def items(self, coding, dtype, shape, earlier):
        size, count = ITEM_BYTES[dtype], math.prod(shape)
        if coding < 2:
            return self.zstd(self.take(), size * count) if coding else self.take(size * count)
        if coding == 2:
            values = struct.unpack(f"<{count}e", self.take())
            check(dtype == 0 and not any(map(math.isnan, values)), "half not allowed")
            return struct.pack(f"<{count}f", *values)
        if coding == 7:
            return self.planes(size, count)
        most = min(1 << 16, 16 * count)  # and so no items are refused
        codebook, symbols = self.codebook(dtype, 1 if coding == 4 else 2, most), [0] * count
        if coding == 5:
            symbols = self.context(codebook, shape, earlier)
        elif coding == 6:
            symbols = self.rans(len(codebook), count)
        elif len(codebook) > 1:
            _, symbols = RangeDecoder(self.take()).stream(len(codebook), count)
        return b"".join(map(dict(enumerate(codebook)).__getitem__, symbols))

    def header(self):
        texts = [self.sized() for _ in range(2 * self.varint())]
        names, entries, blocks, short = [], [], [], b""
        for _ in range(self.varint()):
            shared, rest = (n + self.varint() if n > 14 else n for n in divmod(*self.take(1), 16))
            short, kind = short[:shared] + self.take(rest), *self.take(1)
            check(len(short) == shared + rest and re.fullmatch(SHORT_NAME, short), "wrong name")
            check(kind == ALIAS or kind >> 4 & 7 != 3, "alias not allowed")
            shape = [self.varint() for _ in range(self.varint(0, 64))] if kind != ALIAS else []
            names.append(re.sub(SHORT_BYTE, lambda m: m[1] or ENDINGS[m[2][0]], short))
            entries.append((names[-1].decode(), kind, tuple(shape), self.varint()))
            blocks += [0] * (kind >> 7)  # no alias can be the first entry
            blocks[-1] += entries[-1][3] if kind != ALIAS else 0
        ordered = all(a < b for keys in (texts[::2], names) for a, b in pairwise(keys))
        check(ordered and not self.take(), "header not sorted or too long")
        texts = map(bytes.decode, texts)
        return dict(zip(texts, texts, strict=True)), entries, blocks


class Chunk(RangeDecoder):
    """A chunk of coding 5. A spot is (row, channel, y, x), a line (row,) or (channel, y, x)."""

    def __init__(self, data, how, axes, hints, longest):
        super().__init__(data)
        self.how, self.axes, self.hints, self.longest = how, axes, hints, longest
        self.near = POINT if len(axes[2]) * len(axes[3]) == 1 else MAP
        self.slots, self.weights, self.values = {}, {}, defaultdict(int)
        self.items, self.nonzeros, self.last = (defaultdict(int) for _ in range(3))

    def decide(self, kind, banks, *names):
        banks, names = ([], names[:2]) if self.how & 8 else ([*enumerate(banks)], names)
        find = self.slots.setdefault
        own = find(kind, [FIRST_P.get(kind[0], 1 << 31), 2])
        slots = [own, *(find((kind, name), [own[0], 0]) for name in names)]
        s, initial = [STRETCHED[p >> 16] for p, _ in slots], FIRST_WEIGHT.get(kind[0], 8192)
        weights = [self.weights.setdefault((kind, bank), [initial] * len(s)) for bank in banks]
        mixed = [sum(map(mul, w, s)) >> 16 for w in weights]
        i, f = divmod(clip(sum(mixed) >> 1, -3071, 3071) + 3072, 256)
        refined = [[find((kind, bank, j), [REFINED[j], 2]) for j in (i, i + 1)] for bank in banks]
        finer = (((a >> 16) * (256 - f) + (b >> 16) * f) >> 8 for (a, _), (b, _) in refined)
        p = (2 * squash(sum(mixed) >> 1) + sum(finer) + 2) >> 2
        p = clip(p if banks else sum(p >> 17 for p, _ in slots[1:]), 1, 65535)
        bit = int(self.code < (bound := (self.range >> 16) * p))
        self.narrow(*((0, bound) if bit else (bound, self.range - bound)))
        for w, x in zip(weights, mixed, strict=True):
            step = ((bit << 16) - squash(x)) * (256 + 65536 // (own[1] + 64))
            w[:] = (clip(w[k] + (s[k] * step >> 24), -(1 << 24), 1 << 24) for k in range(len(s)))
        for slot in (*slots, *(pair[f >= 128] for pair in refined)):
            slot[0] += ((bit << 32) - bit - slot[0]) * (131072 // (2 * slot[1] + 3)) >> 16
            slot[1] = min(slot[1] + 1, 1023)
        return bit

    def live(self):
        bits, columns = defaultdict(int), [offset[1:] for offset in self.near[:4]]
        for line in [*product(self.axes[0]), *product(*self.axes[1:])]:
            kind, near = ("column", columns) if len(line) > 1 else ("row", [(-1,), (-2,)])
            known = [bits[tuple(map(add, line, offset))] for offset in near]
            names = (kind, *known), (f"{kind} hint", self.hints.get(line))
            bits[line] = self.decide((kind,), (0, 0), *names)
        return bits

    def decode(self):
        live, order = self.live() if self.how & 4 else None, ORDERS[self.how & 3]
        for numbers in product(*(self.axes[axis] for axis in order)):
            spot = tuple(numbers[order.index(axis)] for axis in range(4))
            row, column = lines = spot[:1], spot[1:]
            if live is None or (live[row] and live[column]):
                self.values[spot] = value = self.item(spot, row, column)
                for line in lines:
                    self.items[line] += 1
                    self.nonzeros[line] += value != 0
                    self.last[line] = value or self.last[line]
        check(next(self.rest, None) is None, "chunk too long")
        return self.values

    def item(self, spot, row, column):
        around = [self.values[tuple(map(add, spot, offset))] for offset in self.near]
        near, touching = around[:4], min(3, 4 - around[:4].count(0))
        r, c = (density(self.nonzeros[line], self.items[line]) for line in (row, column))
        field = (self.nonzeros[tuple(map(add, column, offset))] for offset in FIELD)
        weighted = sum(map(mul, field, (1, 2, 1, 2, 2, 2, 1, 2, 1)))
        n = c if self.near is POINT else density(weighted, 8 * self.items[column])
        names = [("around", around[4:].count(0), *(min(abs(value), 2) for value in near))]
        names += [("density", n, r), ("zero", row), ("zero", column)]
        if self.hints:
            names += [("row", self.hints[column], r), ("column", self.hints[column], c)]
        if not self.decide(("zero",), (touching, r), *names):
            return 0
        signs = [clip(value, -1, 1) for value in (*near, self.last[row], self.last[column])]
        names = ("signs", *signs[:4]), ("sign", row), ("sign", column), ("last", *signs[4:])
        negative = self.decide(("sign",), (touching, r >> 2), *names)
        nearest, last = [min(abs(value), 3) for value in near[:2]], min(abs(self.last[row]), 15)
        names = ("near", *nearest), ("value", last), ("row", r), ("column", c)
        m = self.magnitude((0, r >> 2), *((*name, negative) for name in names), ("first", row))
        return -m if negative else m

    def magnitude(self, banks, *names):  # the last name is for node 0 alone
        def bit(j):
            return self.decide(("node", j), banks, *names[: 4 + (j == 0)])

        m, length = 1, 1 + sum(takewhile(bool, map(bit, range(self.longest - 1))))
        for t, low in enumerate(range(length - 2, -1, -1)):
            j = 16 + 20 * length + (3 + low if t > 1 else t * (1 + m % 2))
            m = 2 * m + bit(j)
        return m


def decode_file(data: bytes) -> tuple[dict[str, str], dict]:
    """Return the metadata, and dtype, shape and little-endian items of each tensor by its name."""
    reader, decoded, tensors = Reader(data), {}, {}
    try:
        check(reader.take(4) == b"ECT\1", "not an .ect file of version 1")
        metadata, entries, blocks = Reader(reader.take(reader.varint(0, 1 << 24))).header()
        check(reader.take(4) and zlib.crc32(data[: reader.tell()]) == CRC_OF_CRC, "header CRC")
        for index, (name, kind, shape, number) in enumerate(entries):
            if kind & 128:
                block = Reader(reader.take(blocks.pop(0) + 4))
                check(zlib.crc32(block.getvalue()) == CRC_OF_CRC, "CRC of a block differs")
            if kind != ALIAS:
                dtype, payload = kind & 15, Reader(block.take(number))
                decoded[index] = dtype, shape, payload.items(kind >> 4 & 7, dtype, shape, decoded)
                check(not payload.take(), "payload too long")
            dtype, shape, items = decoded[number if kind == ALIAS else index]
            tensors[name] = DTYPES[dtype], shape, items
        check(not reader.take(), "bytes after the last block")
    except (ArithmeticError, LookupError, struct.error, zstandard.ZstdError) as error:
        raise ValueError(f"not decodable: {error}") from error
    return metadata, tensors
