"""Replicas across fork: threads, open views, a writer that goes on."""

from control_plane.replica.writer import ReplicaWriter

FORKING = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside threads
from control_plane.errors import ViewExpired
from control_plane.replica.source import ReplicaSource

X = b"\\1x"
source = ReplicaSource(FOLDER)
replica = source.open()
stop = False

def read_on():
    while not stop:
        replica.read(X)

threads = [threading.Thread(target=read_on) for _ in range(3)]
for thread in threads:
    thread.start()
view = replica.view()
failures = 0
for number in range(40):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # A lock held by a thread of the parent would hang here for ever.
            signal = __import__("signal")
            signal.alarm(20)
            for _ in range(50):
                assert source.open() is replica
                assert replica.read(X)[1][0] is not None
            try:
                view.read(X)
            except ViewExpired as error:
                assert "fork" in str(error)
            else:
                raise AssertionError("expected the inherited view to have expired")
            with replica.view() as own:
                assert own.read(X)[0] is not None
            view.close()
            source.close()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    failures += status != 0
    assert view.read(X)[0] is not None, "the child disturbed the parent's view"
stop = True
for thread in threads:
    thread.join()
view.close()
source.close()
print("failures", failures)
"""


def test_children_of_a_threaded_process_read_on_and_lose_only_open_views(
    open_writer, put_flag, run_script
):
    writer: ReplicaWriter = open_writer()
    put_flag(writer, "x", b"from the parent's time")
    outcome = run_script(FORKING)
    assert outcome.stderr == ""
    assert outcome.stdout == "failures 0\n"
    put_flag(writer, "x", b"undisturbed")


def test_a_child_follows_commits_and_swaps_that_came_after_the_fork(
    open_writer, put_flag, start_reader
):
    writer: ReplicaWriter = open_writer()
    put_flag(writer, "x", b"1")
    reader = start_reader()
    assert reader.ask("body('x')") == b"1"
    # The parent becomes the child: what goes on reading inherited everything.
    assert reader.ask("os.fork() and os._exit(0)") == 0
    put_flag(writer, "x", b"2")
    assert reader.ask("body('x')") == b"2"
    writer.rebuild()
    put_flag(writer, "x", b"3")
    writer.swap()
    assert reader.ask("body('x')") == b"3"
