"""Which texts a set of object-specific parts needs: their generic names, their objects, and the background."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovparts_lib.vocabularies import PartVocabulary


@dataclass(frozen=True)
class PartQueries:
    """Queries in the order generic parts, objects, background, and how each part is made of two of them.

    Rows refer to a vocabulary's table of conditions: all ``generic_parts``, all ``objects_with_parts``, background.

    Attributes:
        generics: ids in ``vocabulary.generic_parts``, ascending.
        objects: ids in ``vocabulary.objects``, in the order of ``objects_with_parts``.
        rows: int64 (n,), each query's row in the table.
        part_queries: int64 (m,), for each part the position of its generic name among the queries.
        object_queries: int64 (m,), for each part the position of its object.
        offset: row of the first object.
    """

    generics: tuple[int, ...]
    objects: tuple[int, ...]
    rows: Tensor
    part_queries: Tensor
    object_queries: Tensor
    offset: int

    def pair_rows(self, *, released: bool) -> tuple[Tensor, Tensor]:
        """The table's rows in each part's object slot and part slot, int64 (m,) each.

        The released code reads for objects the object's number in the table that begins with the parts.
        """
        objects, parts = self.rows[self.object_queries], self.rows[self.part_queries]
        return torch.where(objects == parts, objects, objects - self.offset) if released else objects, parts

    def of_parts(self, count: int) -> Tensor:
        """Ascending positions of the queries that the first ``count`` parts are made of."""
        return torch.cat([self.part_queries[:count], self.object_queries[:count]]).unique()

    def texts(self, vocabulary: PartVocabulary, positions: Tensor) -> tuple[str, ...]:
        """Texts of queries, none of them the background."""
        table = query_texts(vocabulary)
        return tuple(table[row] for row in self.rows[positions].tolist())

    def tables(self, vocabulary: PartVocabulary, parts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Look-up tables from labels to positions, int64, -1 for what is not among the queries.

        Args:
            vocabulary: of the labels.
            parts: what the queries were made for.

        Returns:
            From a part label, or the number of parts for none: to its place in ``parts``, and to its generic part's
            query. From an object label, or the number of objects for none: to its query.
        """
        places = torch.full((len(vocabulary.parts) + 1,), -1)
        generics, owners = places.clone(), torch.full((len(vocabulary.objects) + 1,), -1)
        places[list(parts)] = torch.arange(len(parts))
        generics[list(parts)] = self.part_queries[: len(parts)].cpu()
        owners[list(self.objects)] = len(self.generics) + torch.arange(len(self.objects))
        return places, generics, owners


def query_texts(vocabulary: PartVocabulary) -> tuple[str, ...]:
    """Texts of a vocabulary's table of conditions, all but the background: bare names, without a template."""
    return vocabulary.generic_parts + vocabulary.objects_with_parts


def part_queries(
    vocabulary: PartVocabulary,
    parts: Sequence[int],
    *,
    objects: Collection[int] = (),
    background: bool = True,
    device: torch.device | None = None,
) -> PartQueries:
    """The queries that some parts of a vocabulary need.

    Args:
        vocabulary: the words.
        parts: ids of the object-specific parts.
        objects: labels of objects that are wanted beside those of the parts; of objects without parts, and the number
            of objects for none, nothing becomes.
        background: whether the background is a query, the last one; as a class it then is the last part, made of the
            background twice.
        device: where the index tensors are.
    """
    count, ranks = len(vocabulary.generic_parts), vocabulary.object_to_object_with_parts
    of_part = [(vocabulary.part_to_generic[part], vocabulary.part_to_object[part]) for part in parts]
    shown = {number for number in objects if number < len(ranks) and ranks[number] is not None}
    generics = sorted({generic for generic, _ in of_part})
    wanted = sorted({owner for _, owner in of_part} | shown, key=lambda owner: ranks[owner])
    places = {generic: place for place, generic in enumerate(generics)}
    owners = {owner: len(generics) + place for place, owner in enumerate(wanted)}
    pairs = [(places[generic], owners[owner]) for generic, owner in of_part]
    rows = [*generics, *(count + ranks[owner] for owner in wanted)]
    if background:
        pairs.append((len(rows), len(rows)))
        rows.append(count + len(vocabulary.objects_with_parts))
    columns = torch.tensor(pairs, dtype=torch.int64, device=device).T.contiguous()
    return PartQueries(tuple(generics), tuple(wanted), torch.tensor(rows, device=device), *columns, count)
