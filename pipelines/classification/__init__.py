"""Steps of cohorts whose tiles have a class each."""
