"""Many runs: cross-validation, searches, studies."""
