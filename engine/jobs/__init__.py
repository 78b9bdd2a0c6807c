"""Jobs: runs that wait in a queue and are worked on one after another, in processes of their own.

queue      the queue on disk and its worker
executors  where runs can be sent: the local queue, or another place
detached   processes that outlive the one that starts them
"""
