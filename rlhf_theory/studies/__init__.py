"""Studies: sweeps of worlds and learners as data, run so that nothing is lost or done twice.

::

    schema                        the study; `files` reads it, `skeleton` writes one to start from
      fields parts grids items    its values, its small tables, its grids, its entries one by one
      checks plot_checks          what holds between its parts
      complaints messages         mistakes, one line each; `origins`: where each value comes from
      entries signatures roles    what can be named, which settings it has, what can be a learner
      sources imports             the code of what users name: its hash, read from files
      modules notebooks           where that code lies
      resolve registry written    from what was written to specs, from specs to objects, and back
    cells                         a learner in a world, with its key
    identities                    which results are of older code
    running                       from a study to blocks that are computed
      pilot progress provenance   how long, how far, from where
      execution loop              the loop; `attempts`, `interrupts`, `exceptions` keep it whole
      workers                     who computes, with which versions
      backends/                   where blocks run
      blocks recording tables     one block: run, thinned, as a file; `seals` tell damage
    folder looks ledger           what is done: by `journals`, whose rewriting `locks` guard
    curves                        everything as one table
    result                        what people ask of it; `ends`, `findings` compute it

`rlhf_theory.study` has the two classes that people use, `Study` and `StudyResult`: they also run
and draw.
"""
