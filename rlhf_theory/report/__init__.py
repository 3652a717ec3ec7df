"""One page from verdicts, or from a study, for people."""

from rlhf_theory.report.page import write_report
from rlhf_theory.report.sections import Sheet
from rlhf_theory.report.study import Failure, write_study_page
from rlhf_theory.report.tables import Table, table_of

__all__ = ["Failure", "Sheet", "Table", "table_of", "write_report", "write_study_page"]
