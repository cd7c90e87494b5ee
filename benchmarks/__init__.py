"""What is measured against whom; `hornbook bench` runs these modules and writes RESULTS.md."""
