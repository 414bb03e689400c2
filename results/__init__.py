"""Results of runs: tracking, tables, statistics, comparison, certificates, bias and reports. Trains nothing."""
