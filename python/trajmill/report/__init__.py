"""Tables, plots and the HTML page; reads run directories, never trains."""

from trajmill.report.page import Rate, Score, Section, rates_section, score, write_report
from trajmill.runs.reading import RunError, RunRecord, Series, read_run

__all__ = [
    "Rate",
    "RunError",
    "RunRecord",
    "Score",
    "Section",
    "Series",
    "rates_section",
    "read_run",
    "score",
    "write_report",
]
