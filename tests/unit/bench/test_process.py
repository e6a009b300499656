from bench.process import Measured, Peak
from bench.rounds import peak_rss_bytes, telling_line

MB = 2**20


def measured(root_mb: int, *descendants: tuple[str, int]) -> Measured:
    return Measured(
        exit_code=0,
        wall_s=1.0,
        cpu_s=1.0,
        root=Peak(pid=1, command="root", rss_bytes=root_mb * MB),
        descendants=tuple(
            Peak(pid=n, command=command, rss_bytes=mb * MB)
            for n, (command, mb) in enumerate(descendants, start=2)
        ),
        tree_rss_bytes=0,
        last_words="",
    )


def test_the_largest_worker_counts_not_the_coordinator():
    workers = ("python -m rivet_fleet worker --name a", 90), ("python -m rivet_fleet worker", 70)
    assert peak_rss_bytes(measured(200, *workers)) == 90 * MB


def test_without_workers_the_process_itself_counts():
    assert peak_rss_bytes(measured(200, ("psql", 4))) == 200 * MB


def test_the_largest_process_of_a_tree_without_workers_counts():
    assert peak_rss_bytes(measured(20, ("helper", 40))) == 40 * MB


def test_the_line_that_tells_what_went_wrong_is_found():
    assert telling_line("a\n\x1b[31mSourceError: gone\x1b[0m\ninfo worker.stopped\n") == (
        "SourceError: gone"
    )
    assert (telling_line("one\ntwo\n"), telling_line("")) == ("two", "no message")
