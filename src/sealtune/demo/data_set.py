"""What the demo data sets have in common: fetched, cut to size, split, described and written.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sealtune.demo.corpus import Corpus, Item, distinct, limit, split, write_corpus
from sealtune.demo.folder import make_folder
from sealtune.demo.wheel import Member, read_member


@dataclass(frozen=True)
class DataSet:
    """A data set: its source, and how much of it is used for what.

    Attributes:
        name: on the command line, and of its card in ``cards/``.
        members: the files that it is made of, all of one wheel.
        parse: contents of ``members`` -> labelled texts, and label -> what it stands for.
        most, least: texts of a class; the rest of a larger class and smaller classes are left out.
        test_share: of each class, for testing.
        recipe: raise it when the same source gives other files.
    """

    name: str
    members: tuple[Member, ...]
    parse: Callable[..., tuple[list[Item], dict[str, str]]]
    most: int | None = None
    least: int = 1
    test_share: float = 0.2
    recipe: int = 1

    def make(self, out: Path, say: Callable[[str], None]) -> bool:
        """Write ``train.jsonl``, ``test.jsonl`` and ``DATA_CARD.md``.

        Args:
            out: folder to make; replaced only if sealtune made it.
            say: told what is going on.

        Returns:
            False if the folder was complete already.

        Raises:
            DataError: download or contents are wrong.
            StorageError: ``out`` cannot be written or holds other files.
        """
        package, version = self.members[0].package, self.members[0].version

        def build(folder: Path) -> None:
            say(f"fetching {package} {version}")
            sources = [read_member(member) for member in self.members]
            say("reading and splitting")
            items, titles = self.parse(*sources)
            corpus = self.corpus(items)
            write_corpus(corpus, folder)
            (folder / "DATA_CARD.md").write_text(self.card(corpus, titles), encoding="utf-8")

        digests = " ".join(member.sha256 for member in self.members)
        return make_folder(out, f"{package}=={version} {digests} recipe {self.recipe}", build)

    def corpus(self, items: list[Item]) -> Corpus:
        """Clean, limit and split."""
        usable = distinct(items)
        counts = Counter(item.label for item in usable)
        frequent = [item for item in usable if counts[item.label] >= self.least]
        return split(limit(frequent, self.most), self.test_share)

    def card(self, corpus: Corpus, titles: dict[str, str]) -> str:
        """The text of DATA_CARD.md.

        Args:
            titles: label -> what it stands for.
        """
        train, test = (Counter(i.label for i in part) for part in (corpus.train, corpus.test))
        testable = sum(item.testable for item in corpus.train)
        table = ["| label | stands for | train | test |", "| --- | --- | ---: | ---: |"]
        table += [f"| {k} | {titles[k]} | {train[k]:,} | {test[k]:,} |" for k in sorted(train)]
        text = (Path(__file__).parent / "cards" / f"{self.name}.md").read_text(encoding="utf-8")
        return text.format(
            data_set=self,
            member=self.members[0],
            files="\n".join(f"- `{m.path}`,\n  SHA-256 `{m.sha256}`" for m in self.members),
            rows=f"- Rows: {train.total():,} for training, {test.total():,} for testing, "
            f"{len(train)} classes.\n  Always answering the most frequent class is right for "
            f"{max(test.values()) / test.total():.1%} of the test rows.",
            testable=testable,
            train_only=train.total() - testable,
            table="\n".join(table),
        )
