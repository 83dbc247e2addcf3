"""Tables, plots and the HTML page; reads run directories, never trains."""

from trajmill.report.page import Rate, Section, rates_section, write_report
from trajmill.report.runs import RunError, RunRecord, Series, read_run

__all__ = ["Rate", "RunError", "RunRecord", "Section", "Series", "rates_section", "read_run", "write_report"]
