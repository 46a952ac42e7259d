"""What the stories have measured, as the table of docs/debian.md."""

from dataclasses import dataclass, field

from tests.deb.hosts import Watch


@dataclass(slots=True)
class Results:
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    exposures: dict[str, dict[str, str]] = field(default_factory=dict)
    """Unit to Debian release to what `systemd-analyze security` says."""

    def note(self, story: str, watch: Watch, *, gap: bool = True) -> None:
        told = f"{watch.gap_s() * 1000:.0f} ms" if gap else ""
        self.rows.append((story, told, str(watch.moves()), f"{watch.overlap_s():.1f} s"))

    def table(self) -> str:
        rows = [("story", "client's longest gap", "moves", "overlap"), ("---",) * 4, *self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        for unit, scores in self.exposures.items():
            lines.append(f"{unit}: {', '.join(f'{s} {score}' for s, score in scores.items())}")
        return "\n".join(lines)
