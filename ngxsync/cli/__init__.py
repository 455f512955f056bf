"""One module for each command or two; `exits` is the one place that maps errors to messages and exit statuses."""
