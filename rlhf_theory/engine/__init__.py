"""The engine: tasks are computed once, kept, and gone on with, whatever happens.

::

    tasks                        what a task is, and what becomes of one; its file says it is done
    execution loop               getting many done: in flight, dead, suspect, done
      attempts interrupts        one call in a worker; Ctrl-C
      exceptions progress        in words, and how far
    backends/                    where tasks run
    workers                      who computes, with which versions
    sources imports              the code of what users name: its hash, read from files
      modules notebooks          where that code lies
    seals                        digests of the columns of a table
    locks                        runs share a folder, who tidies up has it alone

A task is plain data: studies cut cells into blocks of replicas, theorem cards their sweeps into
parts, language models ask for trainings.
"""
