"""Every interleaving of several programs on one store, driven through the programs' own code.

A program is real code that talks to a store. What it does next hangs only on the answers it has had, so a
program that is somewhere in its run is a *point*: the sequence of those answers. To learn what a point does
next, the program is run from its start with the answers recorded so far, and from there on to its end as if
it were alone; what it asked on the way is remembered. What remains is plain search: a state is the store's
content and one point a program, a step is one request of one program, and states that were seen are not
searched again. So the search is exhaustive at the grain of requests, while the real code runs only as often
as it can see different answers.

A request may also fail: the process dies before it, or after it took effect; a reply is lost. How many such
faults there are in all is bounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from manifest_sync.canonical import hash_bytes
from manifest_sync.errors import StoreUnavailable
from manifest_sync.stores.base import Listed, NotFound, Object, PreconditionFailed, Readable, Unknown

HEAD = "manifest.json"


class Call(NamedTuple):
    """One request."""

    method: str
    key: str
    body: bytes | None = None
    etag: str | None = None
    span: tuple[int, int] = (0, 0)


Answer = Any
"""A value, or a `Failure`; hashable."""


@dataclass(frozen=True)
class Failure:
    """An answer that is raised. ``kind``: missing, refused, unknown, dead."""

    kind: str
    took_effect: bool = False


DEAD = Failure("dead")
DEAD_AFTER = Failure("dead", took_effect=True)


class Died(BaseException):
    """The process died here."""


@dataclass(eq=False)
class Point:
    """A program after certain answers: what it asks next, or how it ended."""

    parent: Point | None
    answer: Answer
    number: int
    faults: int
    call: Call | None = None
    outcome: str | None = None
    children: dict[Answer, Point] = field(default_factory=dict)

    def answers(self) -> list[Answer]:
        """From the start of the program."""
        found = []
        point = self
        while point.parent is not None:
            found.append(point.answer)
            point = point.parent
        return found[::-1]


class Script:
    """The store that a program sees while it is run again: the answers of a point, then those of a store that
    nobody else uses."""

    location = "script://"

    def __init__(self, program: Program, answers: list[Answer], world: World, head: int, bits: int) -> None:
        self._program = program
        self._answers = iter(answers)
        self._world = world
        self._content = head, bits
        self._point = program.root
        self._ended: BaseException | None = None
        self.requests: Counter[str] = Counter()

    def revive(self) -> None:
        """After a death: the next process of the same machine starts."""
        if isinstance(self._ended, Died):
            self._ended = None

    @property
    def point(self) -> Point:
        """How far the program has come."""
        return self._point

    def _ask(self, call: Call) -> Any:
        if self._ended is not None:
            raise self._ended
        point = self._point
        if point.call is None:
            point.call = call
        elif point.call != call:
            raise AssertionError(
                f"not deterministic: {point.call.method} {point.call.key} became {call.method} {call.key}"
            )
        answer = next(self._answers, self)
        if answer is self:
            *content, answer = self._world.apply(*self._content, call)
            self._content = content[0], content[1]
        self._point = self._program.child(point, answer)
        if not isinstance(answer, Failure):
            return answer
        if answer.kind == "dead":
            self._ended = Died()
            raise self._ended
        if answer.kind == "missing":
            raise NotFound(call.key)
        if answer.kind == "refused":
            raise PreconditionFailed(call.key)
        error = StoreUnavailable("the reply was lost")
        raise Unknown(call.key, error) if call.method == "put_if" else error

    def get(self, key: str, *, unless_etag: str | None = None, max_bytes: int) -> Object | None:
        found: Object | None = self._ask(Call("get", key, etag=unless_etag))
        return found

    def get_range(self, key: str, offset: int, length: int, *, etag: str | None = None) -> bytes:
        found: bytes = self._ask(Call("get_range", key, span=(offset, length)))
        return found

    def put(self, key: str, body: bytes) -> None:
        self._ask(Call("put", key, bytes(body)))

    def put_if(self, key: str, body: bytes, *, etag: str | None) -> str:
        new: str = self._ask(Call("put_if", key, bytes(body), etag))
        return new

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from self._ask(Call("list", prefix))

    def delete(self, key: str) -> None:
        self._ask(Call("delete", key))

    def beside(self, place: str) -> Readable:
        raise AssertionError(f"nothing is outside: {place}")

    def close(self) -> None:
        pass


class Program:
    """One program and all its points that were come to.

    Args:
        run: the program; deterministic but for the answers of the store. It ends by returning how it went,
            and calls ``revive`` to go on after `Died`.
        expects: what must hold of the head's files once it has ended so; '' or what is wrong.
    """

    def __init__(
        self, name: str, run: Callable[[Script], str], expects: Callable[[str, dict[bytes, bytes]], str]
    ) -> None:
        self.name = name
        self._run = run
        self.expects = expects
        self.points: list[Point] = []
        self.root = self._add(None, None, 0)
        self.runs = 0

    def _add(self, parent: Point | None, answer: Answer, faults: int) -> Point:
        point = Point(parent, answer, len(self.points), faults)
        self.points.append(point)
        return point

    def child(self, point: Point, answer: Answer) -> Point:
        """The point after one more answer."""
        found = point.children.get(answer)
        if found is None:
            is_fault = isinstance(answer, Failure) and answer.kind in ("dead", "unknown")
            found = point.children[answer] = self._add(point, answer, point.faults + is_fault)
        return found

    def know(self, point: Point, world: World, head: int, bits: int) -> None:
        """Find out what the point asks next, or how it ended, when the store has this content."""
        if point.call is not None or point.outcome is not None:
            return
        self.runs += 1
        script = Script(self, point.answers(), world, head, bits)
        outcome = self._run(script)
        script.point.outcome = outcome


class World:
    """All contents of the store that were come to: a content is the head's number and a set of objects."""

    def __init__(self, objects: dict[str, bytes], *, ignores_conditions: bool = False) -> None:
        self._objects: list[tuple[str, bytes]] = []
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._by_key: dict[str, list[int]] = {}
        self._heads: list[bytes] = []
        self._head_numbers: dict[bytes, int] = {}
        self._ignores_conditions = ignores_conditions
        self._done: dict[tuple[int, int, Call], tuple[int, int, Answer]] = {}
        bits = 0
        for key, body in objects.items():
            if key != HEAD:
                bits |= 1 << self._number(key, body)
        self.start = (self._head_number(objects[HEAD]), bits)

    def _number(self, key: str, body: bytes) -> int:
        number = self._numbers.get((key, body))
        if number is None:
            number = self._numbers[key, body] = len(self._objects)
            self._objects.append((key, body))
            self._by_key.setdefault(key, []).append(number)
        return number

    def _head_number(self, body: bytes) -> int:
        number = self._head_numbers.setdefault(body, len(self._heads))
        if number == len(self._heads):
            self._heads.append(body)
        return number

    def get(self, head: int, bits: int, key: str) -> bytes | None:
        """The object under a key."""
        if key == HEAD:
            return self._heads[head]
        return next((self._objects[n][1] for n in self._by_key.get(key, ()) if bits >> n & 1), None)

    def keys(self, bits: int, prefix: str = "") -> list[str]:
        """The keys, without the head's."""
        return sorted(
            key
            for key, numbers in self._by_key.items()
            if key.startswith(prefix) and any(bits >> n & 1 for n in numbers)
        )

    def mask(self, bits: int, keys: Iterable[str]) -> int:
        """The objects of this content that lie under these keys."""
        found = 0
        for key in keys:
            for number in self._by_key.get(key, ()):
                found |= bits & 1 << number
        return found

    def apply(self, head: int, bits: int, call: Call) -> tuple[int, int, Answer]:
        """What a request makes of a content, and its answer."""
        known = self._done.get((head, bits, call))
        if known is None:
            known = self._done[head, bits, call] = self._apply(head, bits, call)
        return known

    def _apply(self, head: int, bits: int, call: Call) -> tuple[int, int, Answer]:
        if call.method == "list":
            items = []
            for key in self.keys(bits, call.key):
                body = self.get(head, bits, key)
                assert body is not None
                items.append(Listed(key, len(body), "", 0.0))
            return head, bits, tuple(items)
        if call.method == "put_if":
            assert call.body is not None
            if etag(self._heads[head]) != call.etag and not self._ignores_conditions:
                return head, bits, Failure("refused")
            return self._head_number(call.body), bits, etag(call.body)
        if call.method in ("put", "delete"):
            for number in self._by_key.get(call.key, ()):
                bits &= ~(1 << number)
            if call.body is not None:
                bits |= 1 << self._number(call.key, call.body)
            return head, bits, None
        body = self.get(head, bits, call.key)
        if body is None:
            return head, bits, Failure("missing")
        if call.method == "get_range":
            return head, bits, body[call.span[0] : call.span[0] + call.span[1]]
        return head, bits, None if etag(body) == call.etag else Object(body, etag(body))


def etag(body: bytes) -> str:
    return hash_bytes(body).hex()


@dataclass
class Searched:
    """How a search ended: ``violation`` is '' or what was found, ``trace`` the requests that led to it."""

    states: int
    runs: int
    violation: str = ""
    trace: list[str] = field(default_factory=list)
    is_complete: bool = True


State = tuple[int, int, tuple[int, ...], int, int]
"""Head, objects, points; which program moved last, and how often one was interrupted (0, 0 if unbounded)."""


@dataclass(frozen=True)
class Checked:
    """What a content of the store holds: what is wrong, what its head reaches, and the head's files."""

    problem: str
    reachable: frozenset[str]
    files: dict[bytes, bytes]


Check = Callable[[Callable[[str], bytes | None]], Checked]


class Search:
    """The search over all states of some programs on one store.

    Args:
        check: looks at a content of the store.
        faults: how many deaths and lost replies there may be in all.
        mortal: names of the programs that may die.
        switches: how often a program may be interrupted by another before it has ended; None: any number.
    """

    def __init__(
        self,
        world: World,
        programs: list[Program],
        check: Check,
        *,
        faults: int = 0,
        mortal: tuple[str, ...] = (),
        switches: int | None = None,
    ) -> None:
        self._world = world
        self._programs = programs
        self._check = check
        self._faults = faults
        self._mortal = mortal
        self._switches = switches
        self._checked: dict[int, tuple[Checked, int]] = {}
        self._met: dict[tuple[int, int, int], str] = {}

    def run(self, most_states: int = 5_000_000) -> Searched:
        """Search until everything was seen or something is wrong."""
        start: State = (*self._world.start, tuple(0 for _ in self._programs), 0, -1)
        came_from: dict[State, State | None] = {start: None}
        waiting = [start]
        violation = self._wrong(start)
        last = start
        while waiting and not violation and len(came_from) < most_states:
            state = waiting.pop()
            for following in self._steps(state):
                if following in came_from:
                    continue
                came_from[following] = state
                waiting.append(following)
                violation = self._wrong(following)
                if violation:
                    last = following
                    break
        runs = sum(program.runs for program in self._programs)
        trace = self._trace(came_from, last) if violation else []
        return Searched(len(came_from), runs, violation, trace, not waiting)

    def _steps(self, state: State) -> Iterator[State]:
        head, bits, numbers, last, switched = state
        points = [program.points[n] for program, n in zip(self._programs, numbers, strict=True)]
        faults_left = self._faults - sum(point.faults for point in points)
        for which, (program, point) in enumerate(zip(self._programs, points, strict=True)):
            program.know(point, self._world, head, bits)
            call = point.call
            if call is None:
                continue
            mover = (0, 0)
            if self._switches is not None:
                # To go on after another has ended is no interruption, nor is the first step of all.
                is_switch = which != last and points[last].outcome is None
                mover = which, switched + (is_switch or switched < 0)
                if mover[1] > self._switches:
                    continue
            new_head, new_bits, answer = self._world.apply(head, bits, call)
            results = [(new_head, new_bits, answer)]
            if faults_left > 0:
                changes = call.method in ("put", "put_if", "delete")
                if program.name in self._mortal:
                    results.append((head, bits, DEAD))
                    if changes:
                        results.append((new_head, new_bits, DEAD_AFTER))
                if call.method == "put_if":
                    results.append((head, bits, Failure("unknown")))
                    if not isinstance(answer, Failure):
                        results.append((new_head, new_bits, Failure("unknown", took_effect=True)))
            for next_head, next_bits, next_answer in results:
                child = program.child(point, next_answer)
                yield next_head, next_bits, (*numbers[:which], child.number, *numbers[which + 1 :]), *mover

    def _wrong(self, state: State) -> str:
        head, bits, numbers, _, _ = state
        known = self._checked.get(head)
        # Objects do not change: one look at a head tells which must be there as long as it is the head.
        if known is None or known[1] & ~bits:
            checked = self._check(lambda key: self._world.get(head, bits, key))
            if checked.problem:
                return checked.problem
            known = self._checked[head] = checked, self._world.mask(bits, checked.reachable)
        files = known[0].files
        for which, (program, number) in enumerate(zip(self._programs, numbers, strict=True)):
            point = program.points[number]
            program.know(point, self._world, head, bits)
            if point.outcome is None:
                continue
            wrong = self._met.get((which, number, head))
            if wrong is None:
                wrong = self._met[which, number, head] = program.expects(point.outcome, files)
            if wrong:
                return f"{program.name}: {wrong}"
        return ""

    def _trace(self, came_from: dict[State, State | None], last: State) -> list[str]:
        lines: list[str] = []
        state = last
        while (before := came_from[state]) is not None:
            for program, number, older in zip(self._programs, state[2], before[2], strict=True):
                if number != older:
                    call = program.points[older].call
                    assert call is not None
                    answer = program.points[number].answer
                    told = answer if isinstance(answer, Failure | str | None) else type(answer).__name__
                    lines.append(f"{program.name}: {call.method} {call.key[:60]} -> {told}")
            state = before
        return lines[::-1]


class AtOnce:
    """An executor without threads: in the search only the order of requests counts, and it must be the same
    each time a program is run again."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)
        return future

    def map(self, function: Callable[..., Any], *items: Any) -> Iterator[Any]:
        return iter([function(*each) for each in zip(*items, strict=True)])

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        pass
