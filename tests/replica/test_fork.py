"""Replicas across fork: threads, open views, a writer that goes on."""

from control_plane.replica.writer import ReplicaWriter

FORKING = """
import os, sys, threading, traceback, warnings
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
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
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


INSIDE = """
import os, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from control_plane.replica.source import ReplicaSource

source = ReplicaSource(FOLDER)
replica = source.open()
inside = stop = False

class Slow:
    # An environment that a thread is inside of for longer than a fork takes.
    def __init__(self, environment):
        self.environment = environment

    def begin(self):
        global inside
        inside = True
        time.sleep(0.01)
        transaction = self.environment.begin()
        inside = False
        return transaction

def read_on():
    while not stop:
        replica.read(b"\\1x")

environment, replica._environment = replica._environment, Slow(replica._environment)
thread = threading.Thread(target=read_on)
thread.start()
met = 0
for _ in range(20):
    time.sleep(0.003)
    child = os.fork()
    if child == 0:
        os._exit(inside)
    met += os.waitpid(child, 0)[1] != 0
stop = True
thread.join()
replica._environment = environment
source.close()
print("inside", met)
"""

FORKING_TOGETHER = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from control_plane.replica.source import ReplicaSource

X = b"\\1x"
sys.setswitchinterval(1e-6)
source = ReplicaSource(FOLDER)
replica = source.open()
statuses = []

def fork_often():
    for _ in range(20):
        child = os.fork()
        if child == 0:
            __import__("signal").alarm(20)
            found = replica.read(X)[1][0]
            source.close()
            os._exit(found is None)
        statuses.append(os.waitpid(child, 0)[1])
        replica.read(X)

threads = [threading.Thread(target=fork_often) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
source.close()
print(len(statuses), sum(map(bool, statuses)))
"""

INTERRUPTED = """
import os, signal, sys
from control_plane.replica.source import ReplicaSource

X = b"\\1x"
source = ReplicaSource(FOLDER)
replica = source.open()
inside = []

def handle(number, frame):
    while frame is not None and frame.f_code.co_name != "_snapshot":
        frame = frame.f_back
    inside.append(frame is not None)
    assert replica.read(X)[1][0] is not None
    child = os.fork()
    if child == 0:
        found = replica.read(X)[1][0]
        source.close()
        os._exit(found is None)
    assert os.waitpid(child, 0)[1] == 0
    if sum(inside) < 5:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
while sum(inside) < 5:
    assert replica.read(X)[1][0] is not None
source.close()
print("handled")
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


def test_no_fork_happens_while_another_thread_is_inside_lmdb(open_writer, put_flag, run_script):
    put_flag(open_writer(), "x")
    outcome = run_script(INSIDE)
    assert outcome.stderr == ""
    assert outcome.stdout == "inside 0\n"


def test_threads_that_fork_at_once_neither_wait_for_each_other_nor_stop_the_reads(
    open_writer, put_flag, run_script
):
    put_flag(open_writer(), "x")
    outcome = run_script(FORKING_TOGETHER)
    assert outcome.stderr == ""
    assert outcome.stdout == "80 0\n"


def test_a_signal_handler_may_read_and_fork_in_the_midst_of_a_read(
    open_writer, put_flag, run_script
):
    put_flag(open_writer(), "x")
    outcome = run_script(INTERRUPTED)
    assert outcome.stderr == ""
    assert outcome.stdout == "handled\n"


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
