"""Tables, plots and the HTML page; reads run directories, never trains."""

from trajmill.report.figures import Rate
from trajmill.report.page import Score, score, write_report
from trajmill.report.quality import write_quality_report
from trajmill.report.sections import Section, rates_section
from trajmill.runs.reading import RunError, read_run

__all__ = ["Rate", "RunError", "Score", "Section", "rates_section", "read_run", "score"]
__all__ += ["write_quality_report", "write_report"]
