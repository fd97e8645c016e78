"""What runs of a study say: measures, intervals over cases and draws, ranks, pages."""
