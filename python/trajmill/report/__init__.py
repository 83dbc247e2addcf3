"""Tables, plots and the HTML page; reads metrics, never trains."""
