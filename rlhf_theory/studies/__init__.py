"""Studies: sweeps of worlds and learners as data, run so that nothing is lost or done twice.

::

    schema                        the study; `files` reads it, `skeleton` writes one to start from
      fields parts grids items    its values, its small tables, its grids, its entries one by one
      checks plot_checks          what holds between its parts
      complaints messages         mistakes, one line each; `origins`: where each value comes from
      entries signatures roles    what can be named, which settings it has, what can be a learner
      resolve registry written    from what was written to specs, from specs to objects, and back
    cells                         a learner in a world, with its key
    identities                    which results are of older code
    running                       from a study to blocks that are computed
      pilot provenance            how long, from where
      blocks recording tables     one block, a task of the engine: run, thinned, as a file
    folder looks ledger           what is done: by `journals`
    curves                        everything as one table
    result                        what people ask of it; `ends`, `findings` compute it

`rlhf_theory.engine` computes the blocks. `rlhf_theory.study` has the two classes that people use,
`Study` and `StudyResult`: they also run and draw.
"""
