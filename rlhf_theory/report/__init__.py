"""One page from verdicts and figures, for people."""

from rlhf_theory.report.page import write_report

__all__ = ["write_report"]
