"""Studies: sweeps of worlds and learners as data, run so that nothing is lost or done twice."""
