"""Perfect matchings of general graphs, in polynomial time.

Source: Edmonds, Paths, Trees, and Flowers, Canadian Journal of Mathematics 17, 1965:
an alternating tree grows from a free vertex, and an odd cycle is shrunk to one vertex.
"""

from __future__ import annotations

from collections.abc import Sequence

FREE = -1


def fill(needs: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[int] | None:
    """How often to take each pair, so that every point is in as many as it needs.

    Of all solutions the first pair is taken as often as it can be, then the second,
    and so on. So the answer does not depend on how it was searched.

    Args:
      needs: of each point; none may be negative.
      pairs: two points each; none twice.

    Returns:
      A count per pair, or None if there is no solution.
    """
    copies: list[list[int]] = []
    total = 0
    for need in needs:
        copies.append(list(range(total, total + need)))
        total += need
    neighbors: list[list[int]] = [[] for _ in range(total)]
    for first, second in pairs:
        for copy in copies[first]:
            neighbors[copy] += copies[second]
        for copy in copies[second]:
            neighbors[copy] += copies[first]
    matching = _Matching(neighbors)
    if not matching.complete():
        return None
    counts = []
    for first, second in pairs:
        count = 0
        while copies[first] and copies[second]:
            taken = matching.take(copies[first], copies[second])
            if taken is None:
                break
            copies[first].remove(taken[0])
            copies[second].remove(taken[1])
            count += 1
        counts.append(count)
    return counts


class _Matching:
    """A matching that grows by augmenting paths."""

    def __init__(self, neighbors: Sequence[Sequence[int]]):
        """Args: neighbors of each vertex, in both directions."""
        self._neighbors = neighbors
        self._mates = [FREE] * len(neighbors)
        self._gone = [False] * len(neighbors)  # vertices whose pair was taken

    def complete(self) -> bool:
        """Match every vertex; False if that is impossible."""
        if len(self._mates) % 2:
            return False
        for vertex, others in enumerate(self._neighbors):
            if self._mates[vertex] == FREE:
                for other in others:
                    if self._mates[other] == FREE:
                        self._mates[vertex], self._mates[other] = other, vertex
                        break
        return all(
            mate != FREE or self._augment(vertex)
            for vertex, mate in enumerate(self._mates)
        )

    def take(
        self, firsts: Sequence[int], seconds: Sequence[int]
    ) -> tuple[int, int] | None:
        """Take out one pair of a complete matching, and keep the rest complete.

        Args:
          firsts, seconds: vertices of two points; those of one point are alike.

        Returns:
          The pair; None if no complete matching has it.
        """
        for first in firsts:
            if self._mates[first] in seconds:
                second = self._mates[first]
                self._gone[first] = self._gone[second] = True
                return first, second
        first, second = firsts[0], seconds[0]
        widows = self._mates[first], self._mates[second]
        self._gone[first] = self._gone[second] = True
        for widow in widows:
            self._mates[widow] = FREE
        if self._augment(widows[0]):
            return first, second
        self._gone[first] = self._gone[second] = False
        for widow, mate in zip(widows, (first, second), strict=True):
            self._mates[widow] = mate
        return None

    def _augment(self, root: int) -> bool:
        """Match a free vertex along an alternating path; False if there is none."""
        parents: dict[
            int, int
        ] = {}  # of an odd vertex of the tree: the even one before it
        bases = list(range(len(self._mates)))  # of the shrunk cycle of each vertex
        even = {root}
        queue = [root]
        for vertex in queue:
            for other in self._neighbors[vertex]:
                if self._gone[other] or bases[other] == bases[vertex]:
                    continue
                if other in even:
                    base = self._common(vertex, other, parents, bases)
                    cycle = self._shrink(vertex, other, base, parents, bases)
                    cycle |= self._shrink(other, vertex, base, parents, bases)
                    for member, own in enumerate(bases):
                        if own in cycle:
                            bases[member] = base
                            if member not in even:
                                even.add(member)
                                queue.append(member)
                elif other not in parents:
                    parents[other] = vertex
                    mate = self._mates[other]
                    if mate == FREE:
                        self._flip(other, parents)
                        return True
                    even.add(mate)
                    queue.append(mate)
        return False

    def _flip(self, vertex: int, parents: dict[int, int]) -> None:
        """Exchange what is matched and what is not from a vertex back to the root."""
        while vertex != FREE:
            before = parents[vertex]
            following = self._mates[before]
            self._mates[vertex], self._mates[before] = before, vertex
            vertex = following

    def _common(
        self, first: int, second: int, parents: dict[int, int], bases: list[int]
    ) -> int:
        """The base at which the ways of two even vertices to the root meet."""
        seen = set()
        vertex = bases[first]
        while True:
            seen.add(vertex)
            if self._mates[vertex] == FREE:
                break  # the root
            vertex = bases[parents[self._mates[vertex]]]
        vertex = bases[second]
        while vertex not in seen:
            vertex = bases[parents[self._mates[vertex]]]
        return vertex

    def _shrink(
        self,
        vertex: int,
        child: int,
        base: int,
        parents: dict[int, int],
        bases: list[int],
    ) -> set[int]:
        """Bases on the way from an even vertex to the base of its cycle.

        The way around the cycle becomes the parents of the vertices on it.
        """
        found = set()
        while bases[vertex] != base:
            mate = self._mates[vertex]
            found |= {bases[vertex], bases[mate]}
            parents[vertex] = child
            child = mate
            vertex = parents[mate]
        return found
