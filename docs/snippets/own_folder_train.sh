# lines 30
emotion fit --recipe quick --data cleaned.csv --split holdout --dry-run
# lines 30
emotion fit --recipe quick --data cleaned.csv --split holdout
