# lines 20
emotion fit --recipe quick --data crops/manifest.csv --split holdout
