"""Progress: silent where nobody looks, one line a minute in logs, and always on stderr."""

import io

import pytest

from wsss_probe import progress


class Terminal(io.StringIO):
    """Text that says that it is a terminal."""

    def isatty(self):
        """Say so."""
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    time = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


class TestLines:
    def test_at_most_one_a_minute(self, clock, capsys):
        """Lines come when a minute has passed, with everything done so far, and never on stdout."""
        with progress.lines("audited network", 100) as advance:
            for moment in (1, 59.9, 60, 61, 119.9, 120.5):
                clock[0] = moment
                advance(10)
        said = capsys.readouterr()

        assert said.err == "audited network: 30/100 images\naudited network: 60/100 images\n"
        assert said.out == ""

    def test_a_short_job_says_nothing(self, clock, capsys):
        """Work that takes less than a minute prints no line."""
        with progress.lines("x", 2) as advance:
            advance(2)

        assert capsys.readouterr() == ("", "")


class TestBar:
    def test_says_nothing_without_a_terminal(self, capsys):
        """In a log the bar prints nothing at all."""
        with progress.bar("audited network", 3) as advance:
            advance(3)

        assert "audited" not in "".join(capsys.readouterr())

    def test_shows_on_a_terminal(self, monkeypatch, capsys):
        """On a terminal the bar shows the title and how many images are done, on stderr."""
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress.bar("audited network", 3) as advance:
            advance(2)
            advance(1)
        shown = terminal.getvalue()

        assert "audited network" in shown
        assert "3/3" in shown
        assert capsys.readouterr().out == ""
