# lines 20
emotion fit --recipe quick --split holdout --data.holdout_fraction 0.4 \
  --data drawn:largest=150,ratio=2,size=48,confusion=0,classes=neutral+happy+surprise
