# lines 16
emotion fit --recipe quick --split holdout --run.name as-they-are \
  --data drawn:largest=250,ratio=15,size=48,confusion=0,classes=neutral+happy+surprise+sad+fear \
  --data.n_min null --data.transforms '[]' --data.transform_where none
# lines 16
emotion fit --recipe quick --split holdout --run.name over-sampled \
  --data drawn:largest=250,ratio=15,size=48,confusion=0,classes=neutral+happy+surprise+sad+fear \
  --data.n_min 0.5
