"""The context mixer in plain Python: what kernels/mixer.c computes, to be read and compared with.

It shares nothing with the C but the arrays of `models.mixer.Mixer`, and takes some 10 ms a token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hornbook.models.mixer import Floats, Ids, Mixer

CONTEXTS, GIVEN, DIRECT, MATCHES, SETS, FINALS, STAGES = 30, 3, 3, 2, 10, 2, 4
NETWORK = GIVEN * CONTEXTS + 2 * (DIRECT + MATCHES)
SUMS, INPUTS = NETWORK + 3, NETWORK + 12
LENGTHS, BINS, STAGE_CONTEXTS, ORDERS = 48, 33, 4096, 12
LONGEST = 400
RATE, CALM = 0.1, 1.0
# The share of a set's own error in what it learns from, and the smallest error that counts.
OWN, SMALL, SUMMED = 0.2, 0.01, 12
WORD = 2**32 - 1


def scramble(x: int) -> int:
    """A hash of 32 bits."""
    x ^= x >> 16
    x = x * 0x7FEB352D & WORD
    x ^= x >> 15
    x = x * 0x846CA68B & WORD
    return x ^ x >> 16


def join(number: int, more: int) -> int:
    """The hash of a hash and another number."""
    return scramble((number * 0x9E3779B1 + more + 1) & WORD)


def squash(x: float) -> float:
    """The probability with these log-odds."""
    return 1 / (1 + math.exp(-x))


def stretch(p: float) -> float:
    """A probability's log-odds."""
    return math.log(p / (1 - p))


def between(p: float, least: float) -> float:
    """A probability, no nearer to 0 and 1 than `least`."""
    return min(max(p, least), 1 - least)


def within(x: float, most: float) -> float:
    """A number, of `most` at most in size."""
    return min(max(x, -most), most)


def moved(p: int, count: int, bit: int) -> int:
    """What a slot's next outcome makes of its probability, of 12 bits."""
    return p + int(((4095 if bit else 0) - p) / (count + 1.5))


def always(bit: int) -> Iterator[int]:
    """A slot's probability after so many outcomes of one kind."""
    p = 2048
    for count in range(16):
        yield p
        p = moved(p, count, bit)


ALWAYS = list(zip(always(0), always(1), strict=True))


class Prediction:
    """What was computed at one node, for learning from its outcome."""

    def __init__(self) -> None:
        self.inputs = np.zeros(INPUTS)
        self.states: list[tuple[int, int] | None] = []
        self.counters: list[int] = []
        self.matches: list[tuple[int, int] | None] = []
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []
        self.finals: list[np.ndarray] = []
        self.said: list[float] = []
        self.dots: list[float] = []
        self.bins: list[np.ndarray] = []
        # The longer match's length and way, and what the network says, both in steps.
        self.match = self.asked = 0
        self.share = self.p = 0.0


class PlainReader:
    """One text in progress after a mixer's own; see `models.mixer.Reader`."""

    def __init__(self, mixer: Mixer) -> None:
        self.mixer, self.tree = mixer, mixer.tree
        nodes = min(mixer.vocab_size - 1, 4096)
        tokens = min(mixer.vocab_size + 1, 1024)
        self.selectors = (34, nodes, 112, tokens, 33, 1024, 256, 1024, 1024, 1024)
        self.final_rows = (nodes, 34)
        parts = [(rows, INPUTS) for rows in self.selectors] * 2
        parts += [(rows, SETS) for rows in self.final_rows]
        parts += [(CONTEXTS, 16, 64), (CONTEXTS, 16, 64), (MATCHES, LENGTHS)]
        parts += [(MATCHES, LENGTHS), (STAGES, STAGE_CONTEXTS, BINS)]
        ends = np.cumsum([math.prod(each) for each in parts])
        pieces = np.split(mixer.weights.astype(np.float64), ends[:-1])
        shaped = [piece.reshape(part) for piece, part in zip(pieces, parts, strict=True)]
        self.sets, self.squares, shaped = shaped[:SETS], shaped[SETS : 2 * SETS], shaped[2 * SETS :]
        self.finals, (self.p, self.p_counts) = shaped[:FINALS], shaped[FINALS : FINALS + 2]
        self.match_p, self.match_counts, self.stages = shaped[FINALS + 2 :]
        words = mixer.lines.view(np.uint32)
        n_buckets = 16 << mixer.line_bits
        # Buckets of a check and seven slots, four a line; counters; latest places; followers.
        self.buckets = words[:n_buckets].view(np.uint16).reshape(-1, 4, 8).copy()
        self.counter_size = 1 << mixer.counter_bits
        self.words = words[n_buckets:].copy()
        self.text: list[int] = mixer.text.tolist()
        self.begin = len(self.text)
        self.word, self.words_before, self.word_length = 0, [0, 0, 0], 0
        # What stands since the last word; the last such gap of two tokens or more, and the words
        # since that one.
        self.gap = self.gap_length = self.mark = self.since = 0
        # Words (0), marks and spaces (a token + 1), the last first.
        self.shape = [0] * 8
        self.line_start = self.line_before = self.begin
        self.line_first = 0
        self.match_place, self.match_length = [0] * MATCHES, [0] * MATCHES
        self.set_orders()
        self.set_contexts()

    def read(self, tokens: Ids, logits_TV: Floats | None = None) -> Sequence[float]:
        """-ln p of each token, in nats; each is learned once it is predicted."""
        nats = []
        for t, token in enumerate(np.asarray(tokens).tolist()):
            network = None if logits_TV is None else self.by_node(logits_TV[t])
            path = self.tree.path[self.tree.first[token] : self.tree.first[token + 1]].tolist()
            done: list[tuple[int, int, Prediction]] = []
            total = 0.0
            found: list[np.ndarray | None] = []
            for node, bit in ((way >> 1, way & 1) for way in path):
                if not self.tree.slot[node]:
                    found = self.find(int(self.tree.bucket[node]), found)
                at = self.predict(node, found, network)
                total -= math.log(at.p if bit else 1 - at.p)
                done.append((node, bit, at))
            buckets: list[np.ndarray] = []
            for node, bit, at in done:
                if not self.tree.slot[node]:
                    buckets = list(self.buckets_to_write(int(self.tree.bucket[node])))
                self.learn(node, bit, at, buckets)
            nats.append(total)
            self.advance(token)
        return nats

    def by_node(self, logits_V: Floats) -> np.ndarray:
        """The network's probability of bit 1 at every node."""
        V = self.mixer.vocab_size
        leaf = np.exp(logits_V.astype(np.float64) - logits_V.max())
        total, p = np.zeros(V), np.zeros(V)
        for node in reversed(range(V - 1)):
            zero, one = (
                (leaf[~child] if child < 0 else total[child]) + 1e-9
                for child in self.tree.child[:, node].tolist()
            )
            total[node], p[node] = zero + one, one / (zero + one)
        return p

    def key(self, j: int, bucket: int) -> tuple[int, int]:
        """The line and the check of a context's bucket."""
        context = self.contexts[j]
        line = join((context + j * 0x85EBCA77) & WORD, bucket)
        check = join(context ^ 0xC2B2AE3D, (bucket + j * 0x27D4EB2F) & WORD)
        return line & ((1 << self.mixer.line_bits) - 1), check >> 16 | 1

    def find(self, bucket: int, above: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """Each context's bucket; none below a missing one."""
        found: list[np.ndarray | None] = []
        for j in range(CONTEXTS):
            line, check = self.key(j, bucket)
            ways = [way for way in self.buckets[line] if way[0] == check]
            missing = not ways or (above and above[j] is None)
            found.append(None if missing else ways[0])
        return found

    def buckets_to_write(self, bucket: int) -> Iterator[np.ndarray]:
        """Each context's bucket; in place of the least used of its line where there is none."""
        for j in range(CONTEXTS):
            line, check = self.key(j, bucket)
            ways = self.buckets[line]
            same = [way for way in ways if way[0] == check]
            way = same[0] if same else min(ways, key=lambda w: (w[1] & 15) + 1 if w[0] else 0)
            if not same:
                way[0], way[1:] = check, 0x8000
            yield way

    def predict(
        self, node: int, found: Sequence[np.ndarray | None], network: np.ndarray | None
    ) -> Prediction:
        """The probability of bit 1 at a node."""
        at = Prediction()
        self.set_inputs(at, node, found, network)
        final = self.mix(at, node, sum(bucket is not None for bucket in found[:6]))
        where = (within(final, 7.99) + 8) * 2
        at.share = where - int(where)
        contexts = join(self.back(1), node), join(self.orders[2], node), at.match * 128 + node % 128
        for stage, context in zip(self.stages, (*contexts, join(self.word, node)), strict=True):
            at.bins.append(stage[context % STAGE_CONTEXTS, int(where) : int(where) + 2])
        corrected = sum(low * (1 - at.share) + high * at.share for low, high in at.bins)
        at.p = between(0.3 * squash(final) + 0.175 * corrected, 1e-6)
        return at

    def set_inputs(
        self,
        at: Prediction,
        node: int,
        found: Sequence[np.ndarray | None],
        network: np.ndarray | None,
    ) -> None:
        """What each context says at a node."""
        place, depth = int(self.tree.slot[node]) + 1, int(self.tree.depth[node])
        for j, bucket in enumerate(found):
            slot = 0 if bucket is None else int(bucket[place])
            at.states.append((slot & 15, slot >> 10) if slot & 15 else None)
            if slot & 15:
                p = self.p[j, slot & 15, slot >> 10]
                count, counted = slot & 15, stretch(((slot >> 4) + 0.5) / 4096)
                least, most = ALWAYS[count]
                alike = stretch(p) if slot >> 4 <= least or slot >> 4 >= most else 0
                given = stretch(p), alike, counted * count / (count + 1.5)
                at.inputs[GIVEN * j : GIVEN * (j + 1)] = given
        known = [j for j, state in enumerate(at.states) if state]
        for place, first in enumerate((0, 2)):
            places = [GIVEN * j + first for j in known]
            at.inputs[SUMS + place] = at.inputs[places].sum() / SUMMED
            at.inputs[places] -= at.inputs[places].sum() / max(1, len(known))
        for j in range(DIRECT):
            hashed = join(self.orders[j], node) if j else node
            at.counters.append(j * self.counter_size + (hashed & (self.counter_size - 1)))
            counter = int(self.words[at.counters[j]])
            if count := counter & 1023:
                p, k = between((counter >> 10) / 4194304, 1e-4), GIVEN * CONTEXTS + 2 * j
                at.inputs[k : k + 2] = stretch(p), (p - 0.5) * 3 * min(1, count / 30)
        for m in range(MATCHES):
            at.matches.append(None)
            if not self.match_length[m]:
                continue
            expected = self.text[self.match_place[m]]
            first, end = self.tree.first[expected : expected + 2].tolist()
            way = int(self.tree.path[first + depth]) if first + depth < end else -1
            if way >> 1 != node:
                continue
            step, sign = length_step(self.match_length[m]), 1 if way & 1 else -1
            at.matches[m] = step, way & 1
            p, k = self.match_p[m, step], GIVEN * CONTEXTS + 2 * (DIRECT + m)
            at.inputs[k : k + 2] = sign * stretch(p), sign * (p - 0.5) * 3
            at.match = 2 * (step // 3 + 1) + (way & 1)
        if network is not None:
            said = stretch(between(network[node], 1e-6)), (network[node] - 0.5) * 3
            at.inputs[NETWORK : NETWORK + 2] = said
            at.asked = int(within(said[0], 7.5) * 2 + 17)
        at.inputs[NETWORK + 2] = 0.3

    def mix(self, at: Prediction, node: int, seen: int) -> float:
        """The log-odds of bit 1 by all sets of weights."""
        last, before = self.back(1), self.back(2)
        kinds = (int(self.mixer.folded[before - 1]) if before else 0) * 7
        kinds += int(self.mixer.kind[last - 1]) if last else 0
        depth = int(self.tree.depth[node])
        high, column = min(depth, 7), len(self.text) - self.line_start
        chosen = (
            at.match, node % self.selectors[1], seen * 16 + min(depth, 15),
            last % self.selectors[3], at.asked, (kinds + 31 * high) % 1024,
            min(self.word_length, 15) * 16 + min(column, 79) // 5,
            join(self.expected, high) % 1024 if self.expected else 0,
            self.orders[2] % 1024, join(last, node) % 1024,
        )  # fmt: skip
        for weights, squares, row in zip(self.sets, self.squares, chosen, strict=True):
            at.rows.append((weights[row], squares[row]))
        at.dots = [within(float(row @ at.inputs), 12) for row, _ in at.rows]
        at.finals = [self.finals[0][node % self.final_rows[0]], self.finals[1][at.match]]
        at.said = [within(float(shares @ at.dots), 12) for shares in at.finals]
        return sum(at.said) / FINALS

    def learn(self, node: int, bit: int, at: Prediction, buckets: Sequence[np.ndarray]) -> None:
        """Learn from a node's outcome."""
        for (row, squares), dot in zip(at.rows, at.dots, strict=True):
            wrong = bit - OWN * squash(dot) - (1 - OWN) * at.p
            if abs(wrong) < SMALL:
                continue
            gradient = wrong * at.inputs
            squares[:] += gradient**2
            row[:] += RATE * gradient / (np.sqrt(squares) + CALM)
        for shares, said in zip(at.finals, at.said, strict=True):
            shares[:] += (bit - squash(said)) * 0.0005 * np.array(at.dots)
        for pair in at.bins:
            pair[:] += (bit - pair) * 0.02 * np.array([1 - at.share, at.share])
        for j, state in enumerate(at.states):
            if state:
                self.p_counts[j][state] += self.p_counts[j][state] < 1000
                p = self.p[j][state]
                self.p[j][state] = between(p + (bit - p) / (self.p_counts[j][state] + 1.5), 1e-4)
            place = int(self.tree.slot[node]) + 1
            slot = int(buckets[j][place])
            count = slot & 15
            p = moved(slot >> 4, count, bit)
            buckets[j][place] = p << 4 | min(count + 1, 14)
        for place in at.counters:
            counter = int(self.words[place])
            count = counter & 1023
            p = counter >> 10 if count else 2097152
            p += int(((4194303 if bit else 0) - p) / (count + 1.5))
            self.words[place] = p << 10 | min(count + 1, 400)
        for m, found in enumerate(at.matches):
            if found:
                step, way = found
                self.match_counts[m, step] += self.match_counts[m, step] < 250
                p = self.match_p[m, step]
                p += ((way == bit) - p) / (self.match_counts[m, step] + 1.5)
                self.match_p[m, step] = min(max(p, 0.01), 0.9998)

    def back(self, distance: int) -> int:
        """The token so many places back, plus one; 0 before the beginning."""
        place = len(self.text) - distance
        return self.text[place] + 1 if place >= self.begin else 0

    def follower_place(self, table: int, hashed: int) -> int:
        """Where the last two successors of a context stand."""
        return (DIRECT + MATCHES) * self.counter_size + (table << 16) + (hashed & 0xFFFF)

    def set_orders(self) -> None:
        """The hashes of the last tokens."""
        self.orders = [0]
        for k in range(1, ORDERS + 1):
            self.orders.append(join((self.orders[-1] + k) & WORD, self.back(k)))

    def set_contexts(self) -> None:
        """The hashes of the contexts of the next token."""
        last, second, third = (self.back(k) for k in (1, 2, 3))
        here = len(self.text)
        column = here - self.line_start
        above = self.line_before + column
        over = self.text[above] + 1 if above + 1 < self.line_start else 0
        one = int(self.words[self.follower_place(0, join(1, last))])
        two = int(self.words[self.follower_place(1, self.orders[2])])
        word, words = self.word, self.words_before
        pair = join(word, words[0])
        triple = join(pair, words[1])
        self.expected = length = 0
        for m in range(MATCHES):
            if self.match_length[m]:
                self.expected = self.text[self.match_place[m]] + 1
                length = min(self.match_length[m], 20)
        self.contexts = [
            *(self.orders[k] for k in (3, 4, 5, 6, 7, 8, 2)),
            word, pair, triple, join(triple, words[2]), join(word, words[1]),
            join(second, third), join(last, third), self.shape_of(5),
            join(self.shape_of(3), min(column, 100)), self.shape_of(8),
            join(self.shape_of(3), over), join(over, min(column, 255)),
            join(self.line_first, last), join(min(column, 127), last),
            join(one, last), join(two, last),
            join(self.expected, length), join(self.expected, last),
            join(word, here >> 11), join(self.orders[3], here >> 12), join(last, here >> 10),
            join(word, self.since), join(word, self.mark),
        ]  # fmt: skip

    def shape_of(self, length: int) -> int:
        """The hash of the text's last words, marks and spaces."""
        hashed = 0
        for form in self.shape[:length]:
            hashed = join(hashed, form)
        return hashed

    def advance(self, token: int) -> None:
        """Add a token to the text: the contexts and matches of the next one."""
        for table, hashed in enumerate((join(1, self.back(1)), self.orders[2])):
            place = self.follower_place(table, hashed)
            self.words[place] = int(self.words[place]) << 16 & WORD | (token + 1) & 0xFFFF
        self.text.append(token)
        self.follow_words(token)
        self.set_orders()
        self.follow_matches(token)
        self.set_contexts()

    def follow_words(self, token: int) -> None:
        """The words and lines so far, after a token."""
        here, kind = len(self.text), int(self.mixer.kind[token])
        form = 0 if kind in (1, 3) else token + 1
        if form or self.shape[0]:
            self.shape = [form, *self.shape[:-1]]
        if kind != 1 and self.word:
            self.words_before = [self.word, *self.words_before[:2]]
            self.word = self.word_length = 0
        if kind in (1, 3):
            if not self.word:
                apart = self.gap_length > 1
                self.since, self.mark = (0, self.gap) if apart else (self.since + 1, self.mark)
                self.since, self.gap, self.gap_length = min(self.since, 15), 0, 0
            self.word = join(self.word, int(self.mixer.folded[token]))
            self.word_length += 1
        else:
            self.gap, self.gap_length = join(self.gap, token + 1), self.gap_length + 1
        if kind == 2:
            self.line_before, self.line_start, self.line_first = self.line_start, here, 0
        elif here - self.line_start == 1:
            self.line_first = token + 1

    def follow_matches(self, token: int) -> None:
        """Follow the places where the last tokens stood before, or look for some."""
        here = len(self.text)
        for m, shortest in enumerate(self.mixer.shortest):
            if self.match_length[m] and self.text[self.match_place[m]] == token:
                self.match_length[m] += 1
                self.match_place[m] += 1
            else:
                self.match_length[m] = 0
            if here - self.begin < shortest:
                continue
            hashed = self.orders[shortest] & (self.counter_size - 1)
            place = (DIRECT + m) * self.counter_size + hashed
            found = int(self.words[place])
            if not self.match_length[m] and found:
                most, same = min(LONGEST, here - self.begin, found), 0
                while same < most and self.text[found - 1 - same] == self.text[here - 1 - same]:
                    same += 1
                if same >= shortest:
                    self.match_place[m], self.match_length[m] = found, same
            self.words[place] = here


def length_step(length: int) -> int:
    """A match's length in steps, below LENGTHS."""
    if length < 16:
        return length
    return 16 + (length - 16) // 2 if length < 32 else min(24 + (length - 32) // 16, 47)
