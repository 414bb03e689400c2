# lines 16
emotion fit --recipe quick --data drawn:largest=200,ratio=15,size=48 --split holdout --run.name as-they-are \
  --data.n_min null --data.transforms '[]' --data.transform_where none
# lines 16
emotion fit --recipe quick --data drawn:largest=200,ratio=15,size=48 --split holdout --run.name over-sampled \
  --data.n_min 0.5
